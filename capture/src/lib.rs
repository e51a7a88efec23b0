//! Runs a target model and yields its KV cache; reads and writes cache files
