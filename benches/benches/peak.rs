//! How fast this core multiplies int8 digits at best: each path's multiply instruction on registers alone, in as many independent chains as
//! hide its latency. What a kernel reaches of it is what loads, stores and rounding leave.
//!
//! What the registers hold matters: a CPU at the limit of its current or power multiplies zeros faster than digits, and digits faster for
//! some milliseconds than for long (tiles on a Xeon of family 6, model 207: 2870, 2310 and 1230 G multiply-adds/s).

use speckv_backend_cpu::Path;

/// Both operands of all chains: four tiles.
#[repr(C, align(64))]
pub struct Operands(pub [i8; 4096]);

/// Runs a number of rounds.
pub type Loop = fn(&Operands, u64);

/// Multiply-adds of one round of `path`'s loop and the loop; none if it has no instruction of its own.
#[cfg(target_arch = "x86_64")]
pub fn of(path: Path) -> Option<(u64, Loop)> {
    match path {
        Path::Avx2 => Some((16 * 12, x86_64::vpmaddwd)),
        Path::Avx512Vnni => Some((64 * 24, x86_64::vpdpbusd)),
        Path::Amx => Some((16 * 16 * 64 * 4, x86_64::tdpbssd)),
        _ => None,
    }
}

/// Instructions of other architectures are not measured.
#[cfg(not(target_arch = "x86_64"))]
pub fn of(_: Path) -> Option<(u64, Loop)> {
    None
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;

    use super::Operands;

    /// The multiplication alone: what adds its results up is not counted.
    pub fn vpmaddwd(operands: &Operands, rounds: u64) {
        // SAFETY: called for a path that `CpuBackend::forced` has granted, so the CPU has AVX2; reads the first 64 bytes of the operands.
        unsafe {
            asm!(
                "vmovdqa ymm14, [{x}]", "vmovdqa ymm15, [{x} + 32]",
                "2:",
                "vpmaddwd ymm0, ymm15, ymm14", "vpmaddwd ymm1, ymm15, ymm14",
                "vpmaddwd ymm2, ymm15, ymm14", "vpmaddwd ymm3, ymm15, ymm14",
                "vpmaddwd ymm4, ymm15, ymm14", "vpmaddwd ymm5, ymm15, ymm14",
                "vpmaddwd ymm6, ymm15, ymm14", "vpmaddwd ymm7, ymm15, ymm14",
                "vpmaddwd ymm8, ymm15, ymm14", "vpmaddwd ymm9, ymm15, ymm14",
                "vpmaddwd ymm10, ymm15, ymm14", "vpmaddwd ymm11, ymm15, ymm14",
                "dec {n}", "jnz 2b",
                x = in(reg) operands,
                n = inout(reg) rounds => _,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                out("ymm8") _, out("ymm9") _, out("ymm10") _,
                out("ymm11") _, out("ymm14") _, out("ymm15") _, options(readonly, nostack),
            );
        }
    }

    /// 24 chains.
    pub fn vpdpbusd(operands: &Operands, rounds: u64) {
        // SAFETY: called for a path that `CpuBackend::forced` has granted, so the CPU has AVX-512 VNNI; reads 128 bytes of the operands.
        unsafe {
            asm!(
                "vmovdqa64 zmm30, [{x}]", "vmovdqa64 zmm31, [{x} + 64]",
                "2:",
                "vpdpbusd zmm0, zmm30, zmm31", "vpdpbusd zmm1, zmm30, zmm31",
                "vpdpbusd zmm2, zmm30, zmm31", "vpdpbusd zmm3, zmm30, zmm31",
                "vpdpbusd zmm4, zmm30, zmm31", "vpdpbusd zmm5, zmm30, zmm31",
                "vpdpbusd zmm6, zmm30, zmm31", "vpdpbusd zmm7, zmm30, zmm31",
                "vpdpbusd zmm8, zmm30, zmm31", "vpdpbusd zmm9, zmm30, zmm31",
                "vpdpbusd zmm10, zmm30, zmm31", "vpdpbusd zmm11, zmm30, zmm31",
                "vpdpbusd zmm12, zmm30, zmm31", "vpdpbusd zmm13, zmm30, zmm31",
                "vpdpbusd zmm14, zmm30, zmm31", "vpdpbusd zmm15, zmm30, zmm31",
                "vpdpbusd zmm16, zmm30, zmm31", "vpdpbusd zmm17, zmm30, zmm31",
                "vpdpbusd zmm18, zmm30, zmm31", "vpdpbusd zmm19, zmm30, zmm31",
                "vpdpbusd zmm20, zmm30, zmm31", "vpdpbusd zmm21, zmm30, zmm31",
                "vpdpbusd zmm22, zmm30, zmm31", "vpdpbusd zmm23, zmm30, zmm31",
                "dec {n}", "jnz 2b",
                x = in(reg) operands,
                n = inout(reg) rounds => _,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
                out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
                out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
                out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
                out("zmm30") _, out("zmm31") _, options(readonly, nostack),
            );
        }
    }

    /// 4 chains of full tiles.
    pub fn tdpbssd(operands: &Operands, rounds: u64) {
        let mut config = [0u8; 64];
        config[0] = 1;
        for tile in 0..8 {
            (config[16 + 2 * tile], config[48 + tile]) = (64, 16);
        }
        // SAFETY: called for a path that `CpuBackend::forced` has granted, so the CPU has AMX and the kernel allows it; the configuration is
        // 64 bytes, the operands are four tiles of 1 KiB, and tiles are released at the end.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tileloadd tmm4, [{x} + 1*{line}]", "tileloadd tmm5, [{x} + 1*{line} + 1024]",
                "tileloadd tmm6, [{x} + 1*{line} + 2048]", "tileloadd tmm7, [{x} + 1*{line} + 3072]",
                "2:",
                "tdpbssd tmm0, tmm4, tmm6", "tdpbssd tmm1, tmm4, tmm7", "tdpbssd tmm2, tmm5, tmm6", "tdpbssd tmm3, tmm5, tmm7",
                "dec {n}", "jnz 2b",
                "tilerelease",
                config = in(reg) &config,
                x = in(reg) operands,
                line = in(reg) 64usize,
                n = inout(reg) rounds => _,
                options(readonly, nostack),
            );
        }
    }
}
