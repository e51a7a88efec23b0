//! The demo's profile is made by `speckv build`, that is by this crate: so that a first build is possible without it,
//! whether it is there is found out here.

fn main() {
    let profile = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-qwen3/profile.speckv");
    println!("cargo::rerun-if-changed={profile}");
    println!("cargo::rustc-check-cfg=cfg(speckv_demo_profile)");
    if std::path::Path::new(profile).is_file() {
        println!("cargo::rustc-cfg=speckv_demo_profile");
    }
}
