//! First lines of files that are not prose: from them a model goes on writing code and data, which it seldom does from a single token.

/// One of each kind, the kinds that models are asked for most coming first. Only the first lines of any such file: what a model makes of them is its own.
pub const OPENINGS: [&str; 12] = [
    // Python
    "#!/usr/bin/env python3\nimport argparse\nimport os\nimport sys\nfrom collections import defaultdict\n\n\nclass ",
    // JavaScript
    "'use strict';\n\nconst fs = require('fs');\nconst path = require('path');\n\n/**\n * ",
    // C
    "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n\n#define MAX_LEN 256\n\nstatic int ",
    // TypeScript
    "import { EventEmitter } from 'events';\n\nexport interface Options {\n  readonly ",
    // Rust
    "use std::collections::HashMap;\nuse std::fmt;\n\n/// ",
    // Java
    "import java.util.ArrayList;\nimport java.util.List;\nimport java.util.Map;\n\npublic class ",
    // JSON
    "{\n  \"version\": 1,\n  \"items\": [\n    {\n      \"id\": ",
    // HTML
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n  <meta charset=\"utf-8\">\n  <title>",
    // Go
    "package main\n\nimport (\n\t\"errors\"\n\t\"fmt\"\n\t\"os\"\n)\n\n// ",
    // C++
    "#pragma once\n\n#include <memory>\n#include <string>\n#include <vector>\n\nnamespace ",
    // SQL
    "CREATE TABLE users (\n    id INTEGER PRIMARY KEY,\n    name TEXT NOT NULL,\n    ",
    // A shell
    "#!/bin/bash\nset -e\n\nif [ $# -lt 1 ]; then\n    echo \"Usage: $0 ",
];
