"""Exits with 0 if two cache files hold the same tensors: names, types, shapes and bytes.    python3 compare.py A B"""

import sys
from pathlib import Path

from profiles import safetensors

a, b = (safetensors(Path(name).read_bytes())[1] for name in sys.argv[1:3])
wrong = sorted(set(a) ^ set(b)) + sorted(name for name in set(a) & set(b) if a[name] != b[name])
if wrong or not a:
    sys.exit(f"{len(wrong)} of {len(a)} tensors differ: {', '.join(wrong[:4])}")
print(f"{len(a)} tensors equal")
