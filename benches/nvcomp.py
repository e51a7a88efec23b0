#!/usr/bin/env python3
"""nvCOMP's codecs on real caches, on the GPU: ratio, and GB/s of cache bytes compressed and restored, everything in device memory.

    python3 benches/nvcomp.py [--megabytes 1024] [--json OUT] CACHE.safetensors...

Needs numpy, PyTorch and nvidia-nvcomp-cu13 (with nvidia-libnvcomp-cu13; nothing of them is built). Caches as `speckv capture` writes them. What is compressed at a time is one layer's keys
or values; all of them are repeated until so many megabytes are there, so that the card is full. What comes back is compared. Medians of five after one to
warm up, host clock around a synchronised device. The ratio is of all compressed bytes as nvCOMP returns them, its headers included.
"""
import argparse
import json
import statistics
import time

import numpy
import torch
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
    """The keys and values of a cache: bytes, and whether elements have 16 bits."""
    data = numpy.fromfile(path, dtype=numpy.uint8)
    size = int(data[:8].view(numpy.uint64)[0])
    header = json.loads(data[8 : 8 + size].tobytes())
    for name in sorted(header):
        if name.endswith((".key", ".value")):
            start, end = header[name]["data_offsets"]
            yield data[8 + size + start : 8 + size + end], header[name]["dtype"] in ("BF16", "F16")


def median(call):
    times = []
    for _ in range(6):
        torch.cuda.synchronize()
        since = time.perf_counter()
        result = call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - since)
        del result
    return statistics.median(times[1:])


def measure(path, megabytes):
    host, wide = zip(*tensors(path))
    wide = all(wide)
    copies = max(1, megabytes * 1000000 // sum(t.size for t in host))
    pages = [torch.from_numpy(t.copy()).cuda() for t in host for _ in range(copies)]
    total = sum(p.numel() for p in pages)
    arrays = nvcomp.as_arrays(pages)
    for name, options in CODECS:
        if "data_type" in options and not wide:
            continue
        label = name + (" " + options["data_type"] if options else "")
        try:
            codec = nvcomp.Codec(algorithm=name, **options)
            packed = codec.encode(arrays)
            back = codec.decode(packed)
            # Every page of the first copy at least, as bytes.
            same = all(torch.equal(torch.from_dlpack(b).view(torch.uint8).flatten(), p) for b, p in zip((back[i] for i in range(0, len(pages), copies)), pages[::copies]))
            small = sum(packed.buffer_sizes)
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
    name = torch.cuda.get_device_name(0)
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
    if not any("same" in row for row in rows):
        raise SystemExit("no codec ran")


main()
