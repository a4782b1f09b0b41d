//! See `babelcast --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    babelcast::cli::main()
}
