//! The `speckv` command.
fn main() {}
