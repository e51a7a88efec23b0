//! Which instructions run: the only place that asks the CPU or the environment.

use core::fmt;

/// The environment variable that forces a path.
pub const VARIABLE: &str = "SPECKV_CPU";

/// A set of instructions that the backend has code for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Path {
    /// Whatever the compiler's baseline for the target is.
    Scalar,
    /// x86-64 with 256-bit integers: products by `vpmaddwd` on 16-bit digits.
    Avx2,
    /// x86-64 with 512-bit integers and `vpdpbusd`: four int8 products a lane.
    Avx512Vnni,
    /// What `Avx512Vnni` has, and tiles for products: `tdpbssd`, 16 x 64 by 64 x 16 int8 digits.
    Amx,
    /// AArch64 with NEON and `sdot`: four int8 products a lane.
    Neon,
}

impl Path {
    /// All paths, of each architecture the slowest first.
    pub const ALL: [Path; 5] = [Path::Scalar, Path::Avx2, Path::Avx512Vnni, Path::Amx, Path::Neon];

    /// The name, as [`VARIABLE`] takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Path::Scalar => "scalar",
            Path::Avx2 => "avx2",
            Path::Avx512Vnni => "avx512vnni",
            Path::Amx => "amx",
            Path::Neon => "neon",
        }
    }

    /// The inverse of [`Path::name`]; `avx512` is `avx512vnni`.
    pub fn from_name(name: &str) -> Option<Path> {
        match name {
            "avx512" => Some(Path::Avx512Vnni),
            name => Path::ALL.into_iter().find(|p| p.name() == name),
        }
    }

    /// What the path needs and this CPU lacks; empty if the path can run.
    pub fn missing(self) -> Vec<&'static str> {
        match self {
            Path::Scalar => Vec::new(),
            Path::Avx2 => x86::missing_avx2(),
            Path::Avx512Vnni => x86::missing_avx512vnni(),
            Path::Amx => x86::missing_amx(),
            Path::Neon => arm::missing_neon(),
        }
    }

    /// Whether this CPU can run the path.
    pub fn is_available(self) -> bool {
        self.missing().is_empty()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A path was asked for that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// No path has this name.
    Unknown(String),
    /// This CPU lacks some of what the path needs.
    Unavailable {
        /// The path.
        path: Path,
        /// The missing features.
        missing: Vec<&'static str>,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unknown(name) => {
                let known: Vec<_> = Path::ALL.iter().map(|p| p.name()).collect();
                write!(f, "unknown CPU path {name:?} (known: {})", known.join(", "))
            }
            Error::Unavailable { path, missing } => {
                write!(f, "CPU path {path} is not available: this CPU lacks {}", missing.join(", "))
            }
        }
    }
}

impl core::error::Error for Error {}

/// The path that [`VARIABLE`] names, if it is set.
pub(crate) fn from_env() -> Result<Option<Path>, Error> {
    match std::env::var_os(VARIABLE) {
        None => Ok(None),
        Some(name) => {
            let name = name.to_string_lossy();
            Path::from_name(&name).map(Some).ok_or_else(|| Error::Unknown(name.into_owned()))
        }
    }
}

/// A path that this CPU has been seen to support: its values are proofs, made only here.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Isa {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::HasAvx2),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(x86::HasAvx512Vnni),
    #[cfg(target_arch = "x86_64")]
    Amx(x86::HasAmx),
    #[cfg(target_arch = "aarch64")]
    Neon(arm::HasNeon),
}

impl Isa {
    /// Asks the CPU.
    pub(crate) fn new(path: Path) -> Result<Isa, Error> {
        let missing = path.missing();
        if !missing.is_empty() {
            return Err(Error::Unavailable { path, missing });
        }
        Ok(match path {
            Path::Scalar => Isa::Scalar,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => Isa::Avx2(x86::HasAvx2(())),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512Vnni => Isa::Avx512Vnni(x86::HasAvx512Vnni(())),
            #[cfg(target_arch = "x86_64")]
            Path::Amx => Isa::Amx(x86::HasAmx(x86::HasAvx512Vnni(()))),
            #[cfg(target_arch = "aarch64")]
            Path::Neon => Isa::Neon(arm::HasNeon(())),
            _ => unreachable!("missing() named the architecture"),
        })
    }

    /// Which path it is.
    pub(crate) fn path(self) -> Path {
        match self {
            Isa::Scalar => Path::Scalar,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => Path::Avx2,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni(_) => Path::Avx512Vnni,
            #[cfg(target_arch = "x86_64")]
            Isa::Amx(_) => Path::Amx,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => Path::Neon,
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    /// Proof that the CPU (and the operating system) can run AVX2 (and POPCNT).
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct HasAvx2(pub(super) ());

    /// Proof that the CPU (and the operating system) can run AVX2, POPCNT and AVX-512 F, BW, CD, DQ, VL and VNNI.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct HasAvx512Vnni(pub(super) ());

    /// Proof that the CPU can run AVX-512 VNNI and AMX with int8, and that the operating system lets this process do so.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct HasAmx(pub(super) HasAvx512Vnni);

    impl HasAmx {
        /// What it includes.
        pub(crate) fn avx512vnni(self) -> HasAvx512Vnni {
            self.0
        }
    }

    macro_rules! missing {
        ($($name:tt),*) => {{
            let mut missing = Vec::new();
            $(if !std::arch::is_x86_feature_detected!($name) {
                missing.push($name);
            })*
            missing
        }};
    }

    pub(super) fn missing_avx2() -> Vec<&'static str> {
        missing!("avx2", "popcnt")
    }

    pub(super) fn missing_avx512vnni() -> Vec<&'static str> {
        missing!("avx2", "popcnt", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vnni")
    }

    pub(super) fn missing_amx() -> Vec<&'static str> {
        let mut missing = missing_avx512vnni();
        missing.extend(crate::x86_64::amx::missing());
        missing
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    pub(super) fn missing_avx2() -> Vec<&'static str> {
        vec!["x86-64"]
    }

    pub(super) use missing_avx2 as missing_avx512vnni;
    pub(super) use missing_avx2 as missing_amx;
}

#[cfg(target_arch = "aarch64")]
pub(crate) mod arm {
    /// Proof that the CPU (and the operating system) can run NEON and its dot products, in little-endian order.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct HasNeon(pub(super) ());

    pub(super) fn missing_neon() -> Vec<&'static str> {
        let found = [
            ("neon", std::arch::is_aarch64_feature_detected!("neon")),
            ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
            // Vectors are loaded from arrays of smaller numbers.
            ("little-endian order", cfg!(target_endian = "little")),
        ];
        found.iter().filter(|(_, has)| !has).map(|(name, _)| *name).collect()
    }
}

#[cfg(not(target_arch = "aarch64"))]
mod arm {
    pub(super) fn missing_neon() -> Vec<&'static str> {
        vec!["aarch64"]
    }
}
