//! Every parser of bytes that a peer or a control plane sends, as functions of any bytes.
//!
//! The same functions serve the seeded mutator of this crate's binary (stable toolchain, every CI run) and cargo-fuzz
//! (`fuzz/`). A function panics when an invariant is broken; what it accepts or refuses is no matter.

#![allow(clippy::panic, reason = "a broken invariant is reported by a panic")]

mod config;
mod mutate;
mod wire;

pub use mutate::Mutator;

/// A parser under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name, also of its directory in `fuzz/corpus`.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
}

/// All parsers.
// table: name, function
pub static TARGETS: &[Target] = &[
    Target {
        name: "http1_request",
        run: wire::http1_request,
    },
    Target {
        name: "http1_response",
        run: wire::http1_response,
    },
    Target {
        name: "http1_body",
        run: wire::http1_body,
    },
    Target {
        name: "client_hello",
        run: wire::client_hello,
    },
    Target {
        name: "http_sniff",
        run: wire::http_sniff,
    },
    Target {
        name: "proxy_protocol",
        run: wire::proxy_protocol,
    },
    Target {
        name: "http2_frames",
        run: wire::http2_frames,
    },
    Target {
        name: "grpc",
        run: wire::grpc,
    },
    Target {
        name: "metadata_exchange",
        run: wire::metadata_exchange,
    },
    Target {
        name: "mongo",
        run: wire::mongo,
    },
    Target {
        name: "json",
        run: config::json,
    },
    Target {
        name: "bootstrap",
        run: config::bootstrap,
    },
    Target {
        name: "resources",
        run: config::resources,
    },
];

/// Runs one parser; an unknown name does nothing.
pub fn run(name: &str, bytes: &[u8]) {
    if let Some(target) = TARGETS.iter().find(|target| target.name == name) {
        (target.run)(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_corpus_that_passes() {
        for target in TARGETS {
            let directory = format!(
                "{}/../../fuzz/corpus/{}",
                env!("CARGO_MANIFEST_DIR"),
                target.name
            );
            let mut files = 0;
            for file in std::fs::read_dir(&directory).expect(&directory).flatten() {
                (target.run)(&std::fs::read(file.path()).unwrap());
                files += 1;
            }
            assert!(files > 0, "{directory} is empty");
        }
    }

    #[test]
    fn every_target_has_an_entry_for_cargo_fuzz() {
        let manifest = include_str!("../../../fuzz/Cargo.toml");
        for target in TARGETS {
            assert!(
                manifest.contains(&format!("name = \"{}\"", target.name)),
                "{}",
                target.name
            );
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_input() {
        let corpus = vec![b"GET / HTTP/1.1\r\n\r\n".to_vec(), b"x".to_vec()];
        let mutator = Mutator::new(corpus, 7);
        let inputs: Vec<_> = (0..100).map(|number| mutator.input(number)).collect();
        let again: Vec<_> = (0..100).map(|number| mutator.input(number)).collect();
        assert_eq!(inputs, again);
        let mut different = inputs;
        different.sort();
        different.dedup();
        // One of the two seeds is a single byte: some of its mutations are alike.
        assert!(different.len() > 60, "{}", different.len());
    }
}
