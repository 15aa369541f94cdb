//! Lists the built-in dialects: every `src/oauth/dialects/*.toml` becomes one, so that a vendor is a data file and no line of
//! Rust names it.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs, io};

#[expect(clippy::disallowed_methods, reason = "cargo tells build scripts where things are by the environment")]
fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/oauth/dialects");
    let root = env::var_os("CARGO_MANIFEST_DIR").ok_or(io::ErrorKind::NotFound)?;
    let out = env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?;
    let directory = Path::new(&root).join("src/oauth/dialects");
    let mut files = fs::read_dir(&directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.sort();
    let mut list = String::from("&[\n");
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "toml")) {
        if let Some(name) = file.file_stem() {
            let _ = writeln!(list, "    ({:?}, include_str!({:?})),", name.to_string_lossy(), file.to_string_lossy());
        }
    }
    list.push(']');
    fs::write(Path::new(&out).join("dialects.rs"), list)
}
