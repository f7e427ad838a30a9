//! Shipped roles: applications that show the mesh at work and that tests can rely on.
//!
//! The one place of the product where image names are matched ([`IMAGES`]): the local platform pulls no images and
//! asks this table which of them the binary itself can stand in for.

pub mod bookinfo;
mod client;
mod httpbin;
mod load;
mod server;
mod tcp_echo;

use std::net::IpAddr;

/// An image that the binary stands in for: what to run instead of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandIn {
    /// Last path element of the image's repository; registry and tag do not matter.
    pub image: &'static str,
    /// Arguments after the binary's own path; the container's `args` follow.
    pub argv: &'static [&'static str],
}

const fn own(image: &'static str) -> StandIn {
    StandIn { image, argv: &[] }
}

const fn sample(image: &'static str, argv: &'static [&'static str]) -> StandIn {
    StandIn { image, argv }
}

/// Every image that needs no pull.
pub const IMAGES: &[StandIn] = &[
    own("meltemi"),
    own("pilot"),
    own("proxyv2"),
    sample(
        "examples-bookinfo-productpage-v1",
        &["sample", "productpage"],
    ),
    sample("examples-bookinfo-details-v1", &["sample", "details"]),
    sample("examples-bookinfo-ratings-v1", &["sample", "ratings"]),
    sample(
        "examples-bookinfo-reviews-v1",
        &["sample", "reviews", "--ratings=false"],
    ),
    sample(
        "examples-bookinfo-reviews-v2",
        &["sample", "reviews", "--star-color=black"],
    ),
    sample(
        "examples-bookinfo-reviews-v3",
        &["sample", "reviews", "--star-color=red"],
    ),
    sample(
        "examples-helloworld-v1",
        &["sample", "hello", "--version-name=v1"],
    ),
    sample(
        "examples-helloworld-v2",
        &["sample", "hello", "--version-name=v2"],
    ),
    sample("httpbin", &["sample", "httpbin", "--port=80"]),
    sample("go-httpbin", &["sample", "httpbin", "--port=8080"]),
    sample("tcp-echo-server", &["sample", "tcp-echo"]),
];

/// The sample applications.
#[derive(Debug, clap::Subcommand)]
pub enum Role {
    /// Bookinfo's page: what a browser sees
    Productpage(bookinfo::productpage::Options),
    /// Bookinfo's book details
    Details(Listen),
    /// Bookinfo's ratings
    Ratings(Listen),
    /// Bookinfo's reviews, with or without stars
    Reviews(bookinfo::reviews::Options),
    /// Answers /hello with its version and pod name
    Hello(httpbin::HelloOptions),
    /// Answers in the manner of httpbin: /headers, /status/{code}, /delay/{s}, /bytes/{n}, /stream-bytes/{n} ...
    Httpbin(httpbin::Options),
    /// Sends back each line it gets, behind a prefix
    TcpEcho(tcp_echo::Options),
    /// Sends a steady load to a URL and counts what came back
    Load(load::Options),
}

/// Where a role listens.
#[derive(Debug, Clone, clap::Args)]
pub struct Listen {
    /// Port to listen on
    #[arg(long, default_value_t = 9080)]
    pub port: u16,
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0")]
    pub address: IpAddr,
}

/// Runs a role until it is told to stop (SIGTERM, Ctrl-C) or, for a load, until it is done.
///
/// # Errors
/// When the port cannot be opened, or when a load had failures.
pub fn run(role: Role) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match role {
            Role::Productpage(options) => bookinfo::productpage::serve(options).await,
            Role::Details(listen) => bookinfo::details::serve(listen).await,
            Role::Ratings(listen) => bookinfo::ratings::serve(listen).await,
            Role::Reviews(options) => bookinfo::reviews::serve(options).await,
            Role::Hello(options) => httpbin::serve_hello(options).await,
            Role::Httpbin(options) => httpbin::serve(options).await,
            Role::TcpEcho(options) => tcp_echo::serve(options).await,
            Role::Load(options) => load::run(options).await,
        }
    })
}
