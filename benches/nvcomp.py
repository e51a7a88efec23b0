#!/usr/bin/env python3
"""nvCOMP's codecs on real caches, on the GPU: ratio, and GB/s of cache bytes compressed and restored, everything in device memory.

    python3 benches/nvcomp.py [--megabytes 1024] [--json OUT] CACHE.safetensors...

Needs cupy, numpy and nvidia-nvcomp-cu13 (with nvidia-libnvcomp-cu13). Caches as `speckv capture` writes them. What is compressed at a time is one layer's keys
or values; all of them are repeated until so many megabytes are there, so that the card is full. What comes back is compared. Medians of five after one to
warm up, host clock around a synchronised device. The ratio is of all compressed bytes as nvCOMP returns them, its headers included.
"""
import argparse
import json
import statistics
import time

import cupy
import numpy
from nvidia import nvcomp

# Name, options; data types that suit 16-bit elements besides bytes are tried too.
CODECS = [
    ("ANS", {}),
    ("ANS", {"data_type": "<f2"}),
    ("Zstd", {}),
    ("LZ4", {}),
    ("LZ4", {"data_type": "<u2"}),
    ("GDeflate", {}),
    ("Bitcomp", {}),
    ("Bitcomp", {"data_type": "<u2"}),
]


def tensors(path):
    """The keys and values of a cache, as bytes."""
    data = numpy.fromfile(path, dtype=numpy.uint8)
    size = int(data[:8].view(numpy.uint64)[0])
    header = json.loads(data[8 : 8 + size].tobytes())
    for name in sorted(header):
        if name.endswith((".key", ".value")):
            start, end = header[name]["data_offsets"]
            yield data[8 + size + start : 8 + size + end]


def median(call):
    times = []
    for _ in range(6):
        cupy.cuda.Device().synchronize()
        since = time.perf_counter()
        result = call()
        cupy.cuda.Device().synchronize()
        times.append(time.perf_counter() - since)
        del result
    return statistics.median(times[1:])


def measure(path, megabytes):
    host = list(tensors(path))
    wide = "bf16" in path or "f16" in path
    copies = max(1, megabytes * 1000000 // sum(t.size for t in host))
    pages = [cupy.asarray(t) for t in host for _ in range(copies)]
    total = sum(p.size for p in pages)
    arrays = [nvcomp.as_array(p) for p in pages]
    for name, options in CODECS:
        if "data_type" in options and not wide:
            continue
        label = name + (" " + options["data_type"] if options else "")
        try:
            codec = nvcomp.Codec(algorithm=name, **options)
            packed = codec.encode(arrays)
            back = codec.decode(packed)
            same = all(bool((cupy.asarray(b).view(cupy.uint8).ravel() == p).all()) for b, p in zip(back[:: copies + 1], pages[:: copies + 1]))
            small = sum(p.buffer_size for p in packed)
            del back
            row = {
                "cache": path.rsplit("/", 1)[-1],
                "codec": label,
                "ratio": total / small,
                "compress_gbs": total / median(lambda: codec.encode(arrays)) / 1e9,
                "restore_gbs": total / median(lambda: codec.decode(packed)) / 1e9,
                "same": same,
            }
            del packed
        except Exception as error:  # A codec that a version lacks is reported, and the others go on.
            row = {"cache": path.rsplit("/", 1)[-1], "codec": label, "error": str(error)[:120]}
        yield row


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("caches", nargs="+", metavar="CACHE")
    options.add_argument("--megabytes", type=int, default=1024)
    options.add_argument("--json", metavar="OUT")
    args = options.parse_args()
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    print(f"{name}, nvCOMP {nvcomp.__version__}")
    rows = []
    for path in args.caches:
        for row in measure(path, args.megabytes):
            rows.append(row)
            if "error" in row:
                print(f"{row['cache']}: {row['codec']}: {row['error']}", flush=True)
            else:
                print(
                    f"{row['cache']}: {row['codec']}: {row['ratio']:.3f}x, {row['compress_gbs']:.1f} GB/s, {row['restore_gbs']:.1f} GB/s"
                    + ("" if row["same"] else ", WRONG BYTES"),
                    flush=True,
                )
    if args.json:
        with open(args.json, "w") as out:
            json.dump({"device": name, "nvcomp": nvcomp.__version__, "rows": rows}, out, indent=1)
    if any(not row.get("same", True) for row in rows):
        raise SystemExit("bytes differ")


main()
