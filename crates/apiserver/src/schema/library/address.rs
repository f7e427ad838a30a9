//! `ip()`, `isIP()`, `cidr()`, `isCIDR()` and their members.

use std::net::IpAddr;

use cel::common::types::{CelBool, CelInt, CelString};
use cel::{DeclarationError, Env, ExecutionError};

use super::{opaque_value, truth};
use crate::schema::formats;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ip(IpAddr);
opaque_value!(Ip, "net.IP");

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cidr(IpAddr, u8);
opaque_value!(Cidr, "net.CIDR");

pub(super) fn register(env: &mut Env) -> Result<(), DeclarationError> {
    cel::add_overload!(env, fn ip: (CelString) -> Result<Ip>, name = "ip")?;
    cel::add_overload!(env, fn is_ip: (CelString) -> CelBool, name = "isIP")?;
    cel::add_overload!(env, fn is_canonical: (CelString) -> Result<CelBool>, name = "ip.isCanonical")?;
    cel::add_member_overload!(env, fn family: (Ip) -> CelInt)?;
    cel::add_member_overload!(env, fn is_loopback: (Ip) -> CelBool)?;
    cel::add_member_overload!(env, fn is_unspecified: (Ip) -> CelBool)?;
    cel::add_member_overload!(env, fn is_global_unicast: (Ip) -> CelBool)?;
    cel::add_member_overload!(env, fn is_link_local_multicast: (Ip) -> CelBool)?;
    cel::add_member_overload!(env, fn is_link_local_unicast: (Ip) -> CelBool)?;
    cel::add_overload!(env, fn cidr: (CelString) -> Result<Cidr>, name = "cidr")?;
    cel::add_overload!(env, fn is_cidr: (CelString) -> CelBool, name = "isCIDR")?;
    cel::add_member_overload!(env, fn contains_ip_text: (Cidr, CelString) -> Result<CelBool>, name = "containsIP")?;
    cel::add_member_overload!(env, fn contains_ip: (Cidr, Ip) -> CelBool, name = "containsIP")?;
    cel::add_member_overload!(env, fn prefix_length: (Cidr) -> CelInt)?;
    cel::add_member_overload!(env, fn network: (Cidr) -> Ip, name = "ip")?;
    Ok(())
}

fn parse(text: &str, function: &str) -> Result<IpAddr, ExecutionError> {
    text.parse().map_err(|_| {
        ExecutionError::function_error(
            function,
            format!("IP Address {text:?} parse error during conversion from string"),
        )
    })
}

fn ip(text: &CelString<'_>) -> Result<Ip, ExecutionError> {
    parse(text.inner(), "ip").map(Ip)
}

fn is_ip(text: &CelString<'_>) -> CelBool {
    truth(text.inner().parse::<IpAddr>().is_ok())
}

fn is_canonical(text: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    let ip = parse(text.inner(), "ip.isCanonical")?;
    Ok(truth(ip.to_string() == text.inner()))
}

fn family(ip: &Ip) -> CelInt {
    CelInt::from(if ip.0.is_ipv4() { 4 } else { 6 })
}

fn is_loopback(ip: &Ip) -> CelBool {
    truth(ip.0.is_loopback())
}

fn is_unspecified(ip: &Ip) -> CelBool {
    truth(ip.0.is_unspecified())
}

fn link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_global_unicast(ip: &Ip) -> CelBool {
    let broadcast = matches!(ip.0, IpAddr::V4(v4) if v4.is_broadcast());
    truth(
        !(broadcast
            || ip.0.is_unspecified()
            || ip.0.is_loopback()
            || ip.0.is_multicast()
            || link_local(ip.0)),
    )
}

fn is_link_local_multicast(ip: &Ip) -> CelBool {
    truth(match ip.0 {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    })
}

fn is_link_local_unicast(ip: &Ip) -> CelBool {
    truth(link_local(ip.0))
}

fn cidr(text: &CelString<'_>) -> Result<Cidr, ExecutionError> {
    let parsed = formats::cidr(text.inner()).map(|(ip, length)| Cidr(ip, length));
    parsed.ok_or_else(|| {
        ExecutionError::function_error(
            "cidr",
            format!(
                "network address parse error during conversion from string: {:?}",
                text.inner()
            ),
        )
    })
}

fn is_cidr(text: &CelString<'_>) -> CelBool {
    truth(formats::cidr(text.inner()).is_some())
}

/// The address as bits, and how many there are.
fn bits(ip: IpAddr) -> (u128, u32) {
    match ip {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

fn within(cidr: &Cidr, ip: IpAddr) -> bool {
    let ((network, width), (address, other)) = (bits(cidr.0), bits(ip));
    let shift = width - u32::from(cidr.1);
    width == other && network.checked_shr(shift) == address.checked_shr(shift)
}

fn contains_ip(cidr: &Cidr, ip: &Ip) -> CelBool {
    truth(within(cidr, ip.0))
}

fn contains_ip_text(cidr: &Cidr, ip: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    Ok(truth(within(cidr, parse(ip.inner(), "containsIP")?)))
}

fn prefix_length(cidr: &Cidr) -> CelInt {
    CelInt::from(i64::from(cidr.1))
}

fn network(cidr: &Cidr) -> Ip {
    Ip(cidr.0)
}
