//! Prints `docs/xds-support.md`.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(meltemi_compile::coverage::page().as_bytes())
}
