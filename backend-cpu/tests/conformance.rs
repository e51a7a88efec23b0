//! The suite of `speckv-predictor` on this machine's paths. `SPECKV_CPU` picks one; without it every path runs that can.

use rayon::ThreadPoolBuilder;
use speckv_backend_cpu::{CpuBackend, Error, Path, VARIABLE};
use speckv_predictor::{Backend, Portable, conformance};

fn forced() -> Option<Path> {
    let name = std::env::var(VARIABLE).ok()?;
    Some(Path::from_name(&name).unwrap_or_else(|| panic!("{VARIABLE}={name} names no path")))
}

/// Backends to test: the forced one, or all that this machine can run. Says which, and which not.
fn backends() -> Vec<CpuBackend> {
    let paths = forced().map_or(Path::ALL.to_vec(), |p| vec![p]);
    let (mut run, mut skipped) = (Vec::new(), 0);
    for path in paths {
        match CpuBackend::forced(path) {
            Ok(backend) => run.push(backend),
            Err(error) => {
                assert!(forced().is_none(), "{error}");
                println!("speckv-backend-cpu: NOT RUN: {error}");
                skipped += 1;
            }
        }
    }
    println!("speckv-backend-cpu: {} paths run, {skipped} not run", run.len());
    assert!(!run.is_empty());
    run
}

#[test]
fn the_forced_path_answers() {
    let backend = CpuBackend::from_env().expect("an available path");
    println!("speckv-backend-cpu: path={}", backend.path());
    let expected = forced().unwrap_or(CpuBackend::best().path());
    assert_eq!(backend.path(), expected);
    assert_eq!(backend.name(), format!("cpu/{expected}"));
}

#[test]
fn names() {
    for path in Path::ALL {
        assert_eq!(Path::from_name(path.name()), Some(path));
    }
    assert_eq!(Path::from_name("avx512"), Some(Path::Avx512Vnni));
    assert_eq!(Path::from_name("mmx"), None);
    assert!(Path::Scalar.is_available());
    let error = Error::Unknown("mmx".into()).to_string();
    assert_eq!(error, r#"unknown CPU path "mmx" (known: scalar, avx2, avx512vnni, amx, neon)"#);
    let (foreign, lacks) =
        if cfg!(target_arch = "aarch64") { (Path::Avx2, "x86-64") } else { (Path::Neon, "aarch64") };
    let error = CpuBackend::forced(foreign).expect_err("a path of another architecture").to_string();
    assert_eq!(error, format!("CPU path {foreign} is not available: this CPU lacks {lacks}"));
    for path in Path::ALL.into_iter().filter(|p| !p.is_available()) {
        let Err(Error::Unavailable { path: refused, missing }) = CpuBackend::forced(path) else {
            panic!("{path} is not available and must be refused");
        };
        assert!(refused == path && !missing.is_empty());
    }
}

/// The environment is this process's, so an unknown name is tried in another.
#[test]
fn an_unknown_name_is_an_error() {
    const CHILD: &str = "SPECKV_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let error = CpuBackend::from_env().expect_err("mmx is no path");
        assert_eq!(error, Error::Unknown("mmx".into()));
        println!("refused: {error}");
        return;
    }
    let child = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "an_unknown_name_is_an_error", "--nocapture"])
        .env(VARIABLE, "mmx")
        .env(CHILD, "1")
        .output()
        .expect("a second process");
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && text.contains("refused: unknown CPU path"), "{text}");
}

/// One test a property, over all paths and over one and two threads: each must equal the definition, so they equal each other.
macro_rules! properties {
    (() $($property:ident)*) => {
        $(#[test]
        fn $property() {
            for backend in backends() {
                for threads in [1, 2] {
                    let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
                    pool.install(|| conformance::$property(&backend));
                }
            }
        })*
    };
}
speckv_predictor::conformance_properties!(properties, ());

#[test]
fn the_definition_conforms_to_itself() {
    conformance::run(&Portable::new());
}

/// Sizes of real models, on the path that answers unless told otherwise: the definition takes seconds.
#[test]
fn large() {
    conformance::large(&CpuBackend::from_env().expect("an available path"));
}
