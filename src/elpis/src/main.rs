//! The one binary of Elpis. The parts stand in libraries (README's table); no command is built on them yet.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("elpis: this version has no commands yet; the README's table says which parts stand");
    ExitCode::from(2)
}
