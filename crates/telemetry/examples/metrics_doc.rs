//! Prints `docs/metrics.md`.

fn main() {
    print!("{}", meltemi_telemetry::names::page());
}
