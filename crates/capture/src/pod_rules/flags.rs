//! The command line of `istio-iptables`, as init containers carry it.

use super::{CaptureConfig, CaptureError, InterceptionMode, IpRange, Selection};
use std::net::IpAddr;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaptureCommand {
    /// Install the rules.
    Install(CaptureConfig),
    /// Print what would be installed (`--dry-run`).
    DryRun(CaptureConfig),
    /// Remove the rules (`--cleanup-only`).
    Cleanup,
    /// Show the flags (`--help`).
    Help,
}

/// The text of `--help`.
pub const HELP: &str = "\
Leads the traffic of a pod through its proxy. Needs NET_ADMIN in the pod's network namespace.

  -p, --envoy-port PORT                          outbound connections go here (15001)
  -z, --inbound-capture-port PORT                inbound connections go here (15006)
  -e, --inbound-tunnel-port PORT                 port of tunnels, never captured (15008)
  -u, --proxy-uid IDS                            users that are exempt (1337)
  -g, --proxy-gid IDS                            groups that are exempt (1337)
  -m, --istio-inbound-interception-mode MODE     REDIRECT, TPROXY or NONE
  -r, --istio-inbound-tproxy-route-table N       routing table for TPROXY (133)
  -b, --istio-inbound-ports PORTS                inbound ports to capture, * for all
  -d, --istio-local-exclude-ports PORTS          inbound ports to leave alone
  -i, --istio-service-cidr RANGES                outbound destinations to capture, * for all
  -x, --istio-service-exclude-cidr RANGES        outbound destinations to leave alone
  -q, --istio-outbound-ports PORTS               outbound ports to capture whatever the destination
  -o, --istio-local-outbound-ports-exclude PORTS outbound ports to leave alone
  -k, --kube-virt-interfaces NAMES               interfaces of virtual machines
  -c, --istio-exclude-interfaces NAMES           interfaces to leave alone
      --redirect-dns                             lead DNS queries to the proxy
      --capture-all-dns                          also those to other servers than the pod's own
      --drop-invalid                             drop packets that belong to no connection
  -n, --dry-run                                  only print the rules
      --cleanup-only                             remove the rules
";

/// A flag: long name, short name, what it is.
struct Flag {
    long: &'static str,
    short: Option<char>,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Takes a value.
    Value,
    /// True when present; `--flag=false` takes it back.
    Switch,
    /// Takes a value that has no meaning here (the iptables programs, time limits).
    IgnoredValue,
    /// Has no meaning here.
    IgnoredSwitch,
}

const fn flag(long: &'static str, short: Option<char>, kind: Kind) -> Flag {
    Flag { long, short, kind }
}

const FLAGS: [Flag; 32] = [
    flag("envoy-port", Some('p'), Kind::Value),
    flag("inbound-capture-port", Some('z'), Kind::Value),
    flag("inbound-tunnel-port", Some('e'), Kind::Value),
    flag("proxy-uid", Some('u'), Kind::Value),
    flag("proxy-gid", Some('g'), Kind::Value),
    flag("istio-inbound-interception-mode", Some('m'), Kind::Value),
    // Marks are fixed: the exemption's and the transparent proxy's must differ.
    flag("istio-inbound-tproxy-mark", Some('t'), Kind::IgnoredValue),
    flag("istio-inbound-tproxy-route-table", Some('r'), Kind::Value),
    flag("istio-inbound-ports", Some('b'), Kind::Value),
    flag("istio-local-exclude-ports", Some('d'), Kind::Value),
    flag("istio-outbound-ports", Some('q'), Kind::Value),
    flag("istio-local-outbound-ports-exclude", Some('o'), Kind::Value),
    flag("istio-service-cidr", Some('i'), Kind::Value),
    flag("istio-service-exclude-cidr", Some('x'), Kind::Value),
    flag("kube-virt-interfaces", Some('k'), Kind::Value),
    flag("istio-exclude-interfaces", Some('c'), Kind::Value),
    flag("iptables-probe-port", None, Kind::IgnoredValue),
    flag("probe-timeout", None, Kind::IgnoredValue),
    flag("log_output_level", None, Kind::IgnoredValue),
    flag("force-iptables-binary", None, Kind::IgnoredValue),
    flag("dry-run", Some('n'), Kind::Switch),
    flag("skip-rule-apply", None, Kind::Switch),
    flag("run-validation", None, Kind::IgnoredSwitch),
    flag("redirect-dns", None, Kind::Switch),
    flag("capture-all-dns", None, Kind::Switch),
    flag("drop-invalid", None, Kind::Switch),
    flag("cni-mode", None, Kind::IgnoredSwitch),
    flag("dual-stack", None, Kind::IgnoredSwitch),
    flag("reconcile", None, Kind::IgnoredSwitch),
    flag("force-apply", None, Kind::IgnoredSwitch),
    flag("native-nftables", None, Kind::IgnoredSwitch),
    flag("cleanup-only", None, Kind::Switch),
];

/// Reads `istio-iptables` flags (`-p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -x '' -b '*' -d
/// 15090,15021,15020`, long forms, `--flag=value` and `--flag value`). `dns_servers` is left empty:
/// installing takes those of the pod's resolv.conf.
pub fn parse_args(args: &[String]) -> Result<CaptureCommand, CaptureError> {
    let mut config = CaptureConfig::default();
    let (mut dry_run, mut cleanup) = (false, false);
    let mut rest = args.iter().map(String::as_str);
    while let Some(word) = rest.next() {
        if matches!(word, "-h" | "--help") {
            return Ok(CaptureCommand::Help);
        }
        let (flag, attached) = recognise(word)?;
        match flag.kind {
            Kind::IgnoredSwitch => {}
            Kind::Switch => {
                let on = attached.is_none_or(|value| value != "false");
                match flag.long {
                    "dry-run" | "skip-rule-apply" => dry_run |= on,
                    "cleanup-only" => cleanup = on,
                    name => set_switch(&mut config, name, on),
                }
            }
            Kind::Value | Kind::IgnoredValue => {
                let missing = || CaptureError::Flag(format!("{word} needs a value"));
                let value = attached.or_else(|| rest.next()).ok_or_else(missing)?;
                if matches!(flag.kind, Kind::Value) {
                    set_value(&mut config, flag.long, value)?;
                }
            }
        }
    }
    Ok(match (cleanup, dry_run) {
        (true, _) => CaptureCommand::Cleanup,
        (_, true) => CaptureCommand::DryRun(config),
        _ => CaptureCommand::Install(config),
    })
}

/// The flag that a word names, and the value that is part of the word.
fn recognise(word: &str) -> Result<(&'static Flag, Option<&str>), CaptureError> {
    let unknown = || CaptureError::Flag(format!("unknown flag {word:?}"));
    if let Some(long) = word.strip_prefix("--") {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        let flag = FLAGS
            .iter()
            .find(|flag| flag.long == name)
            .ok_or_else(unknown)?;
        return Ok((flag, value));
    }
    let mut letters = word.strip_prefix('-').ok_or_else(unknown)?.chars();
    let letter = letters.next().ok_or_else(unknown)?;
    let flag = FLAGS
        .iter()
        .find(|flag| flag.short == Some(letter))
        .ok_or_else(unknown)?;
    let attached = letters.as_str();
    let attached = attached.strip_prefix('=').unwrap_or(attached);
    Ok((flag, (word.len() > 2).then_some(attached)))
}

fn set_switch(config: &mut CaptureConfig, name: &str, on: bool) {
    match name {
        "redirect-dns" => config.redirect_dns = on,
        "capture-all-dns" => config.capture_all_dns = on,
        "drop-invalid" => config.drop_invalid = on,
        _ => {}
    }
}

// table: one line per flag
fn set_value(config: &mut CaptureConfig, name: &str, value: &str) -> Result<(), CaptureError> {
    match name {
        "envoy-port" => config.outbound_port = one(name, value, PORT)?,
        "inbound-capture-port" => config.inbound_port = one(name, value, PORT)?,
        "inbound-tunnel-port" => config.tunnel_port = one(name, value, PORT)?,
        "proxy-uid" => config.proxy_uids = ids(name, value)?,
        "proxy-gid" => config.proxy_gids = ids(name, value)?,
        "istio-inbound-interception-mode" => config.mode = mode(name, value)?,
        "istio-inbound-tproxy-route-table" => config.tproxy_table = one(name, value, "a number")?,
        "istio-inbound-ports" => {
            config.include_inbound_ports = selection(value, |v| list(name, v, PORT))?
        }
        "istio-local-exclude-ports" => config.exclude_inbound_ports = list(name, value, PORT)?,
        "istio-outbound-ports" => {
            config.include_outbound_ports = selection(value, |v| list(name, v, PORT))?
        }
        "istio-local-outbound-ports-exclude" => {
            config.exclude_outbound_ports = list(name, value, PORT)?
        }
        "istio-service-cidr" => {
            config.include_outbound_ranges = selection(value, |v| ranges(name, v))?
        }
        "istio-service-exclude-cidr" => config.exclude_outbound_ranges = ranges(name, value)?,
        "kube-virt-interfaces" => config.virtual_interfaces = names(name, value)?,
        "istio-exclude-interfaces" => config.exclude_interfaces = names(name, value)?,
        _ => {}
    }
    Ok(())
}

const PORT: &str = "a port number";

fn items(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn invalid(flag: &str, value: &str, expected: &'static str) -> CaptureError {
    CaptureError::Value {
        flag: format!("--{flag}"),
        value: value.to_owned(),
        expected,
    }
}

fn one<T: std::str::FromStr>(
    flag: &str,
    value: &str,
    expected: &'static str,
) -> Result<T, CaptureError> {
    value
        .trim()
        .parse()
        .map_err(|_| invalid(flag, value, expected))
}

fn list<T: std::str::FromStr>(
    flag: &str,
    value: &str,
    expected: &'static str,
) -> Result<Vec<T>, CaptureError> {
    items(value).map(|item| one(flag, item, expected)).collect()
}

/// Without any id the usual one stays.
fn ids(flag: &str, value: &str) -> Result<Vec<u32>, CaptureError> {
    let ids = list(flag, value, "a numeric id")?;
    Ok(if ids.is_empty() { vec![1337] } else { ids })
}

fn mode(flag: &str, value: &str) -> Result<InterceptionMode, CaptureError> {
    match value {
        "REDIRECT" | "" => Ok(InterceptionMode::Redirect),
        "TPROXY" => Ok(InterceptionMode::Tproxy),
        "NONE" => Ok(InterceptionMode::None),
        _ => Err(invalid(flag, value, "REDIRECT, TPROXY or NONE")),
    }
}

fn selection<T>(
    value: &str,
    read: impl FnOnce(&str) -> Result<Vec<T>, CaptureError>,
) -> Result<Selection<T>, CaptureError> {
    if items(value).any(|item| item == "*") {
        Ok(Selection::All)
    } else {
        read(value).map(Selection::Only)
    }
}

fn ranges(flag: &str, value: &str) -> Result<Vec<IpRange>, CaptureError> {
    let bad = |item: &str| invalid(flag, item, "an address range like 10.0.0.0/8");
    items(value)
        .map(|item| {
            let (address, prefix) = item.split_once('/').unwrap_or((item, ""));
            let address: IpAddr = address.parse().map_err(|_| bad(item))?;
            let longest = if address.is_ipv6() { 128 } else { 32 };
            let prefix = if item.contains('/') {
                prefix.parse().map_err(|_| bad(item))?
            } else {
                longest
            };
            if prefix > longest {
                Err(bad(item))
            } else {
                Ok(IpRange { address, prefix })
            }
        })
        .collect()
}

fn names(flag: &str, value: &str) -> Result<Vec<String>, CaptureError> {
    items(value)
        .map(|name| {
            let fits = name.len() < 16 && !name.contains('/');
            if fits {
                Ok(name.to_owned())
            } else {
                Err(invalid(flag, name, "an interface's name"))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<CaptureCommand, CaptureError> {
        let words: Vec<String> = line
            .split_whitespace()
            .map(|w| w.replace("''", ""))
            .collect();
        parse_args(&words)
    }

    fn config(line: &str) -> CaptureConfig {
        match parse(line).unwrap() {
            CaptureCommand::Install(config) => config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_injected_command_line_is_understood() {
        let config = config(
            "-p 15001 -z 15006 -u 1337 -m REDIRECT -i * -x '' -b * -d 15090,15021,15020 \
             --log_output_level=default:info",
        );
        assert_eq!(config.include_inbound_ports, Selection::All);
        assert_eq!(config.include_outbound_ranges, Selection::All);
        assert_eq!(config.exclude_inbound_ports, [15090, 15021, 15020]);
        assert!(config.exclude_outbound_ranges.is_empty());
    }

    #[test]
    fn long_flags_take_values_either_way() {
        let a = config("--proxy-uid=7,8 --istio-service-cidr 10.0.0.0/8,fd00::/8 --redirect-dns");
        let b =
            config("--proxy-uid 7,8 --istio-service-cidr=10.0.0.0/8,fd00::/8 --redirect-dns=true");
        assert_eq!(a, b);
        assert_eq!(a.proxy_uids, [7, 8]);
        assert!(matches!(&a.include_outbound_ranges, Selection::Only(r) if r.len() == 2));
    }

    #[test]
    fn an_empty_list_includes_nothing() {
        let config = config("--istio-inbound-ports=");
        assert_eq!(config.include_inbound_ports, Selection::Only(vec![]));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(
            parse("--nope").unwrap_err().to_string(),
            "unknown flag \"--nope\"; see `meltemi capture --help`"
        );
        assert_eq!(
            parse("-p").unwrap_err().to_string(),
            "-p needs a value; see `meltemi capture --help`"
        );
        assert_eq!(
            parse("-b 80,http").unwrap_err().to_string(),
            "--istio-inbound-ports: \"http\" is not a port number"
        );
        assert!(parse("-i 10.0.0.0/40").is_err());
        assert!(parse("-m MAGIC").is_err());
    }

    #[test]
    fn clean_up_and_dry_run_are_commands() {
        assert_eq!(parse("--cleanup-only").unwrap(), CaptureCommand::Cleanup);
        assert!(matches!(
            parse("--dry-run -p 1").unwrap(),
            CaptureCommand::DryRun(_)
        ));
        assert_eq!(parse("-p 1 --help").unwrap(), CaptureCommand::Help);
    }
}
