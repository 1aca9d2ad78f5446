//! Valid configurations, and the messages for mistakes.

use std::path::Path;

use monitor_common::abi::limits::{MAX_ALLOWED_PREFIXES, MAX_MONITORED_INTERFACES, MAX_TUNNEL_ENDPOINTS};
use peertally_core::{
    exit::{Exit, ExitCause as _},
    words::{Role, SubscriberForm, XdpMode},
};
use proptest::prelude::*;

use super::{ConfigError, Overrides, Resolved, load, parse};
use crate::{
    agent::{AgentInfo, AgentState},
    export::{collector::drain_histogram, status::Status},
    verbs::{check_config, status::show},
};

fn read(text: &str) -> Result<Resolved, ConfigError> {
    parse(Path::new("p.toml"), text, &Overrides::default())
}

fn message(text: &str) -> String {
    read(text).expect_err(text).to_string()
}

#[test]
fn an_empty_file_is_the_defaults() {
    let resolved = read("").expect("defaults");
    assert_eq!(resolved.listen.to_string(), "127.0.0.1:9847");
    assert_eq!(resolved.drain_interval.as_secs(), 10);
    assert_eq!(resolved.top_k, 50);
    assert!(resolved.datapath.sizes.flows.is_power_of_two());
    assert_eq!(resolved.datapath.pools.len(), 5);
    assert!(resolved.datapath.tunnel_endpoints.is_empty());
    assert!(check_config::summary(&resolved).contains("addresses inside tunnels are charged to nobody"));
    assert!(check_config::summary(&resolved).contains("evidence     answered"));
    assert!(!resolved.datapath.one_way);
    assert!(resolved.policies.is_empty());
    assert!(resolved.require_interfaces().expect_err("none").to_string().contains("--interface NAME"));
}

#[test]
fn one_direction_is_a_setting_that_is_named() {
    let resolved = read("one_way = true").expect("valid");
    assert!(resolved.datapath.one_way);
    assert!(check_config::summary(&resolved).contains("evidence     one_way: every flow counts as answered"));
    let source = resolved.analysis_options().source;
    assert_eq!(source.evidence.label(), "one_way");
    let status = Status::of(
        &AgentState::new(resolved.datapath.inspection, resolved.evidence(), Vec::new(), drain_histogram()),
        &AgentInfo::of(&resolved),
    );
    assert!(show(&status).contains("evidence     one_way\n"), "{}", show(&status));
}

#[test]
fn a_whole_file_resolves() {
    let resolved = read(
        r#"
        xdp_mode = "auto"
        allow = ["192.0.2.1"]
        interfaces = [{ name = "eth0" }, { name = "eth1", role = "core" }]
        [[subscribers.pools]]
        prefix = "2001:db8::/32"
        [[tunnels]]
        endpoints = ["203.0.113.0/28", "2001:db9::/64"]
        [[tunnels]]
        endpoints = ["203.0.113.77"]
        [[policies]]
        name = "heavy"
        threshold = "1 GiB"
        window = "1h"
        allow = ["198.51.100.0/24"]
        hooks = ["post", "run"]
        [[policies]]
        name = "many-flows"
        protocols = ["bittorrent"]
        min_confidence = "association"
        metric = "flows"
        threshold = 500
        window = "10s"
        [[hooks]]
        name = "run"
        exec = ["/bin/true", "-x"]
        [[hooks]]
        name = "post"
        [hooks.webhook]
        url = "https://abuse.example.net/events"
        headers = { Authorization = "Bearer x" }
        "#,
    )
    .expect("valid");
    assert_eq!(resolved.interfaces[1].role, Role::Core);
    assert_eq!(resolved.datapath.pools[0].to_string(), "2001:db8::/32/56");
    let endpoints: Vec<String> = resolved.datapath.tunnel_endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(endpoints, ["203.0.113.0/28", "2001:db9::/64", "203.0.113.77/32"]);
    let shown = check_config::summary(&resolved);
    assert!(shown.contains("tunnels      203.0.113.0/28, 2001:db9::/64, 203.0.113.77/32\n"), "{shown}");
    assert_eq!(resolved.policies[0].threshold, 1 << 30);
    assert_eq!(resolved.policies[0].hooks, [1, 0]);
    assert_eq!(resolved.policies[0].allow.len(), 2);
    assert_eq!(resolved.policies[1].allow.len(), 1);
    assert_eq!(resolved.hooks[0].subscriber, SubscriberForm::Both);
    assert_eq!(resolved.hooks[1].subscriber, SubscriberForm::Pseudonym);
    assert_eq!((resolved.hooks[0].retries, resolved.hooks[1].retries), (0, 5));
    let shown = format!("{resolved:?}");
    assert!(!shown.contains("Bearer"), "a secret is shown: {shown}");
}

#[test]
fn prefixes_of_an_access_interface_lie_in_pools() {
    let file = |role: &str, prefixes: &str| {
        format!(
            "[[subscribers.pools]]\nprefix = \"10.0.0.0/8\"\nshared = true\n[[subscribers.pools]]\nprefix = \"fd00::/8\"\n\
             [[interfaces]]\nname = \"eth0\"\nrole = \"{role}\"\nprefixes = [{prefixes}]\n"
        )
    };
    let resolved = read(&file("access", "\"10.1.0.0/16\", \"::/0\"")).expect("valid");
    let prefixes: Vec<String> = resolved.interfaces[0].prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["10.1.0.0/16", "::/0"]);
    assert_eq!(resolved.datapath.pools.iter().map(|pool| pool.shared).collect::<Vec<_>>(), [true, false]);
    let shown = check_config::summary(&resolved);
    assert!(shown.contains("eth0 (access, 10.1.0.0/16, ::/0)"), "{shown}");
    assert!(shown.contains("10.0.0.0/8 in blocks of /32, shared"), "{shown}");
    for (role, prefixes, parts) in [
        ("core", "\"10.1.0.0/16\"", &["interfaces[0].prefixes", "no subscriber is behind"][..]),
        ("access", "\"192.0.2.0/24\"", &["interfaces[0].prefixes[0]", "no address of a pool"]),
        ("access", "\"10.1.0.0/16\", \"10.1.0.0/16\"", &["interfaces[0].prefixes[1]", "given twice"]),
        ("access", "\"::ffff:10.0.0.0/104\"", &["write 10.0.0.0/8"]),
        ("access", "\"10.1.0.1/16\"", &["write 10.1.0.0/16"]),
    ] {
        let message = message(&file(role, prefixes));
        assert!(parts.iter().all(|part| message.contains(part)), "{prefixes}: {message}");
    }
    let overrides = Overrides { interfaces: vec!["eth0".parse().expect("interface")], ..Overrides::default() };
    let given = parse(Path::new("p.toml"), &file("access", "\"10.1.0.0/16\""), &overrides).expect("valid");
    assert_eq!(given.interfaces, read(&file("access", "\"10.1.0.0/16\"")).expect("valid").interfaces);
    let many =
        |count: u32| (0..count).map(|part| format!("\"10.{}.{}.0/24\",", part / 256, part % 256)).collect::<String>();
    assert!(read(&file("access", &many(MAX_ALLOWED_PREFIXES))).is_ok());
    assert!(message(&file("access", &many(MAX_ALLOWED_PREFIXES + 1))).contains("exceed the maximum of 1024"));
}

#[test]
fn vlans_have_an_entry_each() {
    let file = |vlans: &str| format!("[[interfaces]]\nname = \"eth0\"\nrealm = 3\n{vlans}");
    let resolved = read(&file(
        "[[interfaces.vlans]]\nouter = \"100-199\"\ninner = 7\nrole = \"core\"\n\
         [[interfaces.vlans]]\nouter = 5\nrealm = 0\nprefixes = [\"10.0.0.0/16\"]\n\
         [[interfaces.vlans]]\nouter = 6\nrole = \"core\"\nrealm = 0\n",
    ));
    let resolved = resolved.expect("valid");
    let vlans = &resolved.interfaces[0].vlans;
    assert_eq!((vlans[0].role, vlans[0].realm, vlans[1].role, vlans[1].realm), (Role::Core, 3, Role::Access, 0));
    let shown = check_config::summary(&resolved);
    let wanted = "eth0 (access, realm 3), eth0.100-199.7 (core, realm 3), eth0.5 (access, 10.0.0.0/16), eth0.6 (core)";
    assert!(shown.contains(wanted), "{shown}");
    let vlan = |keys: &str| format!("[[interfaces.vlans]]\n{keys}\n");
    for (vlans, parts) in [
        (vlan("inner = 7"), &["the key `outer` is missing"][..]),
        (vlan("outer = 0"), &["`0` is not a VLAN or a range", "1 to 4094"]),
        (vlan("outer = 4095"), &["`4095` is not a VLAN"]),
        (vlan("outer = \"200-100\""), &["`200-100` is not a VLAN or a range"]),
        (vlan("outer = 1\ninner = \"all\""), &["`all` is not a VLAN or a range"]),
        (vlan("outer = true"), &["a VLAN such as 100"]),
        (
            vlan("outer = \"1-9\"") + &vlan("outer = 9\ninner = 5"),
            &["interfaces[0].vlans[1].outer", "VLAN 9.5 and to 1-9", "one entry"],
        ),
        (
            vlan("outer = 1\nrole = \"core\"\nprefixes = [\"10.0.0.0/8\"]"),
            &["interfaces[0].vlans[0].prefixes", "core side"],
        ),
        (
            (1..=97).map(|id| vlan(&format!("outer = {id}\ninner = {id}"))).collect(),
            &["97 outer VLANs", "maximum of 96"],
        ),
        ((1..=1025).map(|id| vlan(&format!("outer = {id}"))).collect(), &["1025 entries of VLANs", "maximum of 1024"]),
    ] {
        let message = message(&file(&vlans));
        assert!(parts.iter().all(|part| message.contains(part)), "{parts:?}: {message}");
    }
    for vlans in [
        (1..=96).map(|id| vlan(&format!("outer = {id}\ninner = {id}"))).collect(),
        (1..=1024).map(|id| vlan(&format!("outer = {id}"))).collect(),
        vlan("outer = \"1-4094\"\ninner = \"1-2\"") + &vlan("outer = \"1-4094\"\ninner = \"3-4094\""),
    ] {
        let read: Result<_, _> = read(&file(&vlans));
        assert!(read.is_ok(), "{read:?}");
    }
}

#[test]
fn realms_that_share_a_core_interface_are_refused() {
    let interface = |name: &str, role: &str, realm: u32| {
        format!("[[interfaces]]\nname = \"{name}\"\nrole = \"{role}\"\nrealm = {realm}\n")
    };
    let vlan = |outer: u32, role: &str, realm: u32| {
        format!("[[interfaces.vlans]]\nouter = {outer}\nrole = \"{role}\"\nrealm = {realm}\n")
    };
    let two = interface("sub1", "access", 1) + &interface("sub2", "access", 2);
    let message = message(&(two.clone() + &interface("core1", "core", 1)));
    for part in [
        "interfaces[1].realm",
        "realm 2 of sub2",
        "core1 of realm 1",
        "such as 10.0.0.0/8",
        "give realm 2 a core VLAN in [[interfaces.vlans]]",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let one_armed =
        interface("eth0", "access", 0) + &vlan(1, "access", 1) + &vlan(2, "core", 1) + &vlan(3, "access", 2);
    assert!(self::message(&one_armed).contains("realm 2 of eth0.3"), "{}", self::message(&one_armed));
    for good in [
        two.clone(),
        two.clone() + &interface("core1", "core", 1) + &interface("core2", "core", 2),
        two.clone() + &interface("core", "core", 0) + &vlan(1, "core", 1) + &vlan(2, "core", 2),
        one_armed + &vlan(4, "core", 2),
        "one_way = true\n".to_owned() + &two + &interface("core1", "core", 1),
    ] {
        let read = read(&good);
        assert!(read.is_ok(), "{read:?}");
    }
    let error = read(&(two + &interface("core1", "core", 1))).expect_err("refused");
    assert_eq!(error.exit(), Exit::Usage);
}

#[test]
fn policies_select_protocols_by_class_and_by_name() {
    let labels = |keys: &str| -> Vec<&str> {
        let policy = format!("[[policies]]\nname = \"p\"\nthreshold = 1\nwindow = \"1m\"\n{keys}\n");
        let resolved = read(&policy).expect("valid");
        resolved.policies[0].protocols.iter().map(|protocol| protocol.label()).collect()
    };
    let default = labels("");
    assert!(default.contains(&"bittorrent") && default.contains(&"gnutella"));
    for label in ["unclassified", "fragment", "libp2p", "btsync"] {
        assert!(!default.contains(&label), "{label}");
    }
    assert_eq!(labels("classes = [\"filesharing\", \"video\"]"), default);
    assert_eq!(labels("protocols = [\"gnutella\"]"), ["gnutella"]);
    assert_eq!(
        labels("classes = [\"sync\"]\nprotocols = [\"libp2p\", \"gnutella\"]"),
        ["gnutella", "libp2p", "btsync"]
    );
}

#[test]
fn flags_win_over_the_file() {
    let overrides = Overrides {
        interfaces: vec!["eth9:core".parse().expect("interface")],
        pools: vec!["10.0.0.0/8".parse().expect("pool")],
        xdp_mode: Some(XdpMode::Generic),
        listen: Some("[::1]:1".parse().expect("address")),
        host_name: None,
    };
    let text = "xdp_mode = \"native\"\nlisten = \"127.0.0.1:2\"\ninterfaces = [{ name = \"eth0\" }]\n";
    let resolved = parse(Path::new("p.toml"), text, &overrides).expect("valid");
    assert_eq!(resolved.interfaces.len(), 1);
    assert_eq!(resolved.interfaces[0].name, "eth9");
    assert_eq!(resolved.xdp_mode, XdpMode::Generic);
    assert_eq!(resolved.listen.port(), 1);
    assert_eq!(resolved.datapath.pools.len(), 1);
}

#[test]
fn as_many_interfaces_as_can_be_counted_are_accepted_and_no_more() {
    let max = MAX_MONITORED_INTERFACES;
    let file =
        |count: usize| (0..count).map(|index| format!("[[interfaces]]\nname = \"eth{index}\"\n")).collect::<String>();
    assert_eq!(read(&file(max)).expect("accepted").interfaces.len(), max);
    let shown = message(&file(max + 1));
    assert!(shown.contains("interfaces: 32 interfaces") && shown.contains("at most 31"), "{shown}");
}

#[test]
fn as_many_tunnel_endpoints_as_the_kernel_holds_are_accepted_and_no_more() {
    // In two lists.
    let file = |count: usize| {
        let endpoints: Vec<String> =
            (0..count).map(|index| format!("\"203.{}.{}.0/24\"", index >> 8, index & 255)).collect();
        let (first, rest) = endpoints.split_at(count / 2);
        format!("[[tunnels]]\nendpoints = [{}]\n[[tunnels]]\nendpoints = [{}]\n", first.join(", "), rest.join(", "))
    };
    let max = MAX_TUNNEL_ENDPOINTS as usize;
    assert_eq!(read(&file(max)).expect("accepted").datapath.tunnel_endpoints.len(), max);
    let shown = message(&file(max + 1));
    assert!(shown.contains("p.toml:1: tunnels: 1025 endpoints exceed the maximum of 1024"), "{shown}");
}

#[test]
fn shedding_is_on_unless_it_is_switched_off() {
    let rate = |text: &str| read(text).expect("valid").datapath.shedding.map(|shedding| shedding.packets_per_second);
    assert_eq!(rate(""), Some(500_000));
    assert_eq!(rate("[shedding]\npackets_per_second = 1000"), Some(1000));
    assert_eq!(rate("[shedding]\nenabled = false\npackets_per_second = 1000"), None);
    let shown = message("[shedding]\npackets_per_second = 999");
    assert!(shown.contains("p.toml:2: shedding.packets_per_second: 999 is out of range"), "{shown}");
}

#[test]
fn mistakes_name_the_line_and_the_next_step() {
    let policy = "[[policies]]\nname = \"p\"\nthreshold = 1\n";
    let hook = "[[hooks]]\nname = \"h\"\n";
    for (text, parts) in [
        (
            "\ndrain_intervall = \"1s\"\n".to_owned(),
            vec!["p.toml:2: unknown key `drain_intervall`; did you mean `drain_interval`"],
        ),
        (
            "listen = \"nowhere\"".to_owned(),
            vec!["p.toml:1: listen: \"nowhere\" is not ADDRESS:PORT", "127.0.0.1:9847"],
        ),
        ("[capacity]\nflows = \"many\"".to_owned(), vec!["p.toml:2: capacity.flows: \"many\" is not a whole number"]),
        ("[capacity]\nflows = -1".to_owned(), vec!["p.toml:2: capacity.flows: -1 is out of range"]),
        ("state_dir = 5".to_owned(), vec!["p.toml:1: state_dir: 5 is not text in quotes"]),
        ("log = 5".to_owned(), vec!["p.toml:1: log: 5 is not a table"]),
        ("[[state_dir]]\nx = 1".to_owned(), vec!["p.toml:1: state_dir: a list is not text in quotes"]),
        ("[heuristic]\nenabled = 1".to_owned(), vec!["p.toml:2: heuristic.enabled: 1 is not `true` or `false`"]),
        ("on_exit = 1".to_owned(), vec!["p.toml:1: on_exit: 1 is not text in quotes"]),
        ("[policies]\nname = \"p\"".to_owned(), vec!["p.toml:1: policies: a table is not a list"]),
        (
            "[[policies]]\nname = \"p\"\nthreshold = 1\nwindow = \"1m\"\nallow = [\"10.0.0.1\", 5]".to_owned(),
            vec!["p.toml:5: policies[0].allow[1]: 5 is not an address or prefix"],
        ),
        (
            "[[policies]]\nname = \"p\"\nthreshold = 1".to_owned(),
            vec!["p.toml:1: policies[0]: the key `window` is missing"],
        ),
        ("listen = \n".to_owned(), vec!["p.toml:1"]),
        ("xdp_mode = \"nativ\"".to_owned(), vec!["p.toml:1", "did you mean `native`"]),
        ("\n\ndrain_interval = \"10 parsecs\"".to_owned(), vec!["p.toml:3", "write for example"]),
        ("drain_interval = 10".to_owned(), vec!["p.toml:1", "a time with its unit"]),
        ("drain_interval = \"1ms\"".to_owned(), vec!["p.toml:1: drain_interval", "100ms to 1h"]),
        ("inspection = \"watchlist\"".to_owned(), vec!["p.toml:1: inspection", "needs a list", "watchlist_file"]),
        (
            format!("{policy}window = \"1h\"\ncool_down = \"366 days\""),
            vec!["366 days is out of range; allowed: 0s to 365 days"],
        ),
        (format!("{policy}window = \"32 days 1h\""), vec!["32 days 1h is out of range; allowed: 100ms to 31 days"]),
        ("[capacity]\nflows = 5".to_owned(), vec!["p.toml:2: capacity.flows", "1024 to"]),
        ("state_dir = \"var\"".to_owned(), vec!["state_dir", "absolute"]),
        ("interfaces = [{ name = \"a/b\" }]".to_owned(), vec!["interfaces[0].name", "ip link"]),
        (
            "interfaces = [{ name = \"a\" },\n{ name = \"a\" }]".to_owned(),
            vec!["p.toml:2: interfaces[1]", "given twice"],
        ),
        ("[[subscribers.pools]]\nprefix = \"10.0.0.1/8\"".to_owned(), vec!["p.toml:2", "write 10.0.0.0/8"]),
        ("[[subscribers.pools]]\nprefix = \"10.0.0.0/8\"\nassign = 4".to_owned(), vec!["p.toml:3", "cannot be larger"]),
        ("[[tunnels]]".to_owned(), vec!["p.toml:1: tunnels[0]: the key `endpoints` is missing"]),
        ("[[tunnels]]\nendpoint = []".to_owned(), vec!["p.toml:2", "did you mean `endpoints`"]),
        ("[[tunnels]]\nendpoints = []".to_owned(), vec!["p.toml:2: tunnels[0].endpoints: the list is empty", "remove"]),
        ("[tunnels]\nendpoints = [\"192.0.2.1\"]".to_owned(), vec!["p.toml:1: tunnels: a table is not a list"]),
        ("[[tunnels]]\nendpoints = \"192.0.2.1\"".to_owned(), vec!["p.toml:2: tunnels[0].endpoints", "is not a list"]),
        (
            "[[tunnels]]\nendpoints = [\"192.0.2.0/24\", \"192.0.2.1/24\"]".to_owned(),
            vec!["p.toml:2: tunnels[0].endpoints", "write 192.0.2.0/24"],
        ),
        (
            "[[tunnels]]\nendpoints = [\"192.0.2.0/24\",\n7]".to_owned(),
            vec!["p.toml:3: tunnels[0].endpoints[1]: 7 is not an address or prefix"],
        ),
        (
            "[[tunnels]]\nendpoints = [\"192.0.2.1\"]\n[[tunnels]]\nendpoints = [\"192.0.2.2\", \"192.0.2.1/32\"]"
                .to_owned(),
            vec!["p.toml:4: tunnels[1].endpoints[1]: 192.0.2.1/32 is given twice"],
        ),
        (
            "[[tunnels]]\nendpoints = [\"0.0.0.0/0\", \"::/0\"]".to_owned(),
            vec!["tunnels[0].endpoints[0]: 0.0.0.0/0 names every address", "anybody could charge", "[1]: ::/0 names"],
        ),
        (
            "[[tunnels]]\nendpoints = [\"10.1.0.0/16\", \"192.168.0.0/15\"]".to_owned(),
            vec![
                "p.toml:2: tunnels[0].endpoints[0]: 10.1.0.0/16 lies in the pool 10.0.0.0/8",
                "no effect",
                "choose pools",
            ],
        ),
        (format!("{policy}window = \"1s\""), vec!["p.toml:4: policies[0].window", "shorter than drain_interval"]),
        (
            format!("{policy}window = \"1m\"\nprotocols = [\"bitorrent\"]"),
            vec!["p.toml:5", "did you mean `bittorrent`"],
        ),
        (format!("{policy}window = \"1m\"\nprotocols = [\"unclassified\"]"), vec!["not a P2P protocol"]),
        (
            format!("{policy}window = \"1m\"\nclasses = [\"filesharing\", \"vidio\"]"),
            vec!["p.toml:5: policies[0].classes[1]", "did you mean `video`"],
        ),
        (format!("{policy}window = \"1m\"\nclasses = []"), vec!["p.toml:5: policies[0].classes", "covers no protocol"]),
        (
            format!("{policy}window = \"1m\"\nclasses = [\"storage\"]"),
            vec!["p.toml:5: policies[0].classes: no protocol of this version has class `storage`", "never fire"],
        ),
        (format!("{policy}window = \"1m\"\nmin_confidence = \"none\""), vec!["p.toml:5", "heuristic"]),
        (format!("{policy}window = \"1m\"\nhooks = [\"nobody\"]"), vec!["p.toml:5", "[[hooks]]"]),
        (format!("{policy}window = \"1m\"\nmetric = \"flows\"\ndirection = \"up\""), vec!["p.toml:6", "no direction"]),
        (
            "[[policies]]\nname = \"p q\"\nthreshold = \"1 GB\"\nmetric = \"packets\"\nwindow = \"1m\"".to_owned(),
            vec!["p.toml:2", "not a name", "p.toml:3", "plain number"],
        ),
        ("[[policies]]\nname = \"p\"\nthreshold = \"1 furlong\"".to_owned(), vec!["p.toml:3", "GiB"]),
        ("[[policies]]\nname = \"p\"\nwindow = \"1m\"".to_owned(), vec!["p.toml:1", "threshold"]),
        (format!("{policy}window = \"1m\"\n{policy}window = \"1m\""), vec!["p.toml:6: policies[1].name", "used twice"]),
        (hook.to_owned(), vec!["p.toml:1: hooks[0]: a hook needs a kind", "[hooks.exec], [hooks.webhook]"]),
        (
            format!("{hook}exec = 1979-05-27"),
            vec!["p.toml:3: hooks[0].exec: a date is not a table or a list of strings"],
        ),
        (format!("{hook}webhook = 1979-05-27"), vec!["p.toml:3: hooks[0].webhook: a date is not a table or a string"]),
        (
            format!("{hook}[hooks.webhook]\nurl = 1979-05-27"),
            vec!["p.toml:4: hooks[0].webhook.url: a date is not text in quotes"],
        ),
        (
            format!("{hook}[hooks.webhook]\nurl = \"https://x/\"\nheaders = 1979-05-27"),
            vec!["p.toml:5: hooks[0].webhook.headers: a date is not a table"],
        ),
        ("node = 1979-05-27".to_owned(), vec!["p.toml:1: node: a date is not text in quotes"]),
        ("log = 1979-05-27".to_owned(), vec!["p.toml:1: log: a date is not a table"]),
        ("drain_interval = 07:32:00".to_owned(), vec!["p.toml:1: drain_interval: a date is not a time with its unit"]),
        (format!("{hook}exec = [\"true\"]"), vec!["p.toml:3", "absolute"]),
        (format!("{hook}exec = []"), vec!["empty"]),
        (format!("{hook}exec = [\"/bin/true\"]\nwebhook = \"http://x\""), vec!["p.toml:4", "two hooks"]),
        (format!("{hook}webhook = \"ftp://x\""), vec!["p.toml:3", "https://"]),
        (format!("{hook}webhook = \"https://u:p@x/\""), vec!["password"]),
        (
            format!("{hook}[hooks.webhook]\nurl = \"https://x/\"\nheaders = {{ \"a b\" = \"c\" }}"),
            vec!["p.toml:5: hooks[0].webhook.headers.a b", "header name"],
        ),
        (
            format!("{hook}[hooks.webhook]\nurl = \"https://x/\"\nheaders = {{ x-a = \"1\", X-A = \"2\" }}"),
            vec!["p.toml:5: hooks[0].webhook.headers.x-a", "given twice", "in names of headers"],
        ),
        (format!("{hook}[hooks.webhook]\nurl = \"ftp://x\""), vec!["p.toml:4: hooks[0].webhook.url", "https://"]),
        (format!("{hook}[hooks.exec]\ncomand = [\"/bin/true\"]"), vec!["p.toml:4", "did you mean `command`"]),
        (format!("{hook}[hooks.exec]"), vec!["p.toml:3: hooks[0].exec: the key `command` is missing"]),
        (format!("{hook}exec = \"/bin/true\""), vec!["p.toml:3", "a table or a list of strings"]),
        (format!("{hook}webhook = [\"https://x/\"]"), vec!["p.toml:3", "a table or a string"]),
        (format!("{hook}[hooks.webhok]\nurl = \"https://x/\""), vec!["p.toml:3", "did you mean `webhook`"]),
        (
            format!("{hook}webhook = \"https://x/\"\nheaders = {{ a = \"b\" }}"),
            vec!["p.toml:4", "`headers`", "[hooks.webhook]"],
        ),
    ] {
        let shown = message(&text);
        for part in parts {
            assert!(shown.contains(part), "{text}\nsays: {shown}\nwithout: {part}");
        }
    }
}

#[test]
fn values_of_hook_kinds_stay_out_of_messages() {
    let hook = "[[hooks]]\nname = \"h\"\n";
    for (text, part) in [
        (
            "[hooks.webhook]\nurl = \"https://x/\"\nheaders = { Authorization = 12345678 }",
            "a number is not text in quotes",
        ),
        ("[hooks.webhook]\nurl = \"https://x/\"\nheaders = \"12345678\"", "text is not a table"),
        ("[hooks.webhook]\nurl = 12345678", "p.toml:4: hooks[0].webhook.url: a number is not text in quotes"),
        ("webhook = 12345678", "p.toml:3: hooks[0].webhook: a number is not a table or a string"),
        ("webhook = \"12345678\"", "not a URL"),
        ("exec = \"https://h/?token=12345678\"", "text is not a table or a list of strings"),
        ("exec = [\"/bin/true\", 12345678]", "hooks[0].exec[1]: a number is not text in quotes"),
        ("exec = [\"https://h/?token=12345678\"]", "not an absolute path"),
    ] {
        let shown = message(&format!("{hook}{text}"));
        assert!(shown.contains(part), "{text}\nsays: {shown}\nwithout: {part}");
        assert!(!shown.contains("12345678"), "a secret is shown: {shown}");
    }
}

#[test]
fn control_characters_of_a_file_do_not_reach_the_terminal() {
    let policy = "threshold = 1\nwindow = \"1m\"\n";
    for text in [
        "[[hooks]]\nname = \"a\\u001b[2Jb\"\nexec = [\"/bin/true\"]".to_owned(),
        format!("[[policies]]\nname = \"a\\u001b[2Jb\"\n{policy}"),
        format!("[[policies]]\nname = \"p\"\n{policy}hooks = [\"a\\u001b[2Jb\"]"),
        format!("[[policies]]\nname = \"p\"\n{policy}classes = [\"a\\u001b[2Jb\"]"),
        "\"a\\u001b[2Jb\" = 1".to_owned(),
        "[[hooks]]\nname = \"h\"\n[hooks.webhook]\nurl = \"https://x/\"\nheaders = { \"a\\u001b[2Jb\" = \"c\" }"
            .to_owned(),
        "drain_interval = \"a\\u001b[2Jb\"".to_owned(),
    ] {
        let shown = message(&text);
        assert!(!shown.contains('\u{1b}'), "{text}\nsays: {shown:?}");
        assert!(shown.contains("a\\u{1b}[2Jb"), "{text}\nsays: {shown:?}");
    }
    let forged = message("[[hooks]]\nname = \"a\\nb: valid\"\nexec = [\"/bin/true\"]");
    assert_eq!(forged.lines().count(), 1, "{forged}");
    let program = read("[[hooks]]\nname = \"h\"\nexec = [\"/bin/a\\u001b[2Jb\"]").expect("valid");
    let shown = check_config::summary(&program);
    assert!(shown.contains("/bin/a\\u{1b}[2Jb"), "{shown:?}");
}

#[test]
fn a_list_in_the_place_of_a_table_is_refused() {
    let hook = "[[hooks]]\nname = \"h\"\n";
    for (text, expected) in [
        (
            "[[subscribers]]\npools = []".to_owned(),
            "p.toml:1: subscribers: a list is not a table; subscribers is one table: write [subscribers]",
        ),
        (
            "[[log]]\n[[log]]\nlevel = \"info\"".to_owned(),
            "p.toml:1: log: a list is not a table; log is one table: write [log]",
        ),
        ("log = [\"text\"]".to_owned(), "p.toml:1: log: a list is not a table"),
        ("capacity = []".to_owned(), "p.toml:1: capacity: a list is not a table"),
        ("heuristic = [true]".to_owned(), "p.toml:1: heuristic: a list is not a table"),
        ("metrics = [5, true]".to_owned(), "p.toml:1: metrics: a list is not a table"),
        ("interfaces = [[\"eth0\"]]".to_owned(), "p.toml:1: interfaces[0]: a list is not a table"),
        ("interfaces = [\"eth0\"]".to_owned(), "p.toml:1: interfaces[0]: \"eth0\" is not a table"),
        ("policies = [[\"p\"]]".to_owned(), "p.toml:1: policies[0]: a list is not a table"),
        ("hooks = [[\"h\"]]".to_owned(), "p.toml:1: hooks[0]: a list is not a table"),
        ("subscribers.pools = [[\"10.0.0.0/8\"]]".to_owned(), "p.toml:1: subscribers.pools[0]: a list is not a table"),
        (
            format!("{hook}[[hooks.exec]]\ncommand = [\"/bin/true\"]\n[[hooks.exec]]"),
            "p.toml:3: hooks[0].exec: a list is not a table or a list of strings; exec is one table: write [hooks.exec]",
        ),
        (
            format!("{hook}[[hooks.webhook]]\nurl = \"https://x/\""),
            "p.toml:3: hooks[0].webhook: a list is not a table or a string; webhook is one table: write [hooks.webhook]",
        ),
    ] {
        assert_eq!(message(&text), expected, "{text}");
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let shown = message("state_dir = \"a\"\ncontrol_socket = \"b\"\n[capacity]\nflows = 1\n");
    assert_eq!(shown.lines().count(), 3, "{shown}");
}

#[test]
fn all_unknown_keys_and_wrong_types_are_reported_at_once() {
    let shown = message(
        "lissten = \"a\"\nallow = [1, \"10.0.0.0/8\", true]\n[[policies]]\nname = \"p\"\nthreshold = true\nwindow = 5\n\
         [[policies]]\nname = \"q\"\nthreshold = 5\n[[policies]]\nname = \"r\"\nthreshold = 5\nwindow = \"x\"\n",
    );
    let lines: Vec<&str> = shown.lines().collect();
    let expected = [
        "p.toml:1: unknown key `lissten`",
        "p.toml:2: allow[0]: 1 is not an address or prefix",
        "p.toml:2: allow[2]: true is not an address or prefix",
        "p.toml:5: policies[0].threshold: true is not a whole number",
        "p.toml:6: policies[0].window: 5 is not a time",
        "p.toml:7: policies[1]: the key `window` is missing",
        "p.toml:13: policies[2].window: `x` is not a time",
    ];
    assert_eq!(lines.len(), expected.len(), "{shown}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\nis not: {expected}");
    }
}

#[test]
fn files_that_cannot_be_read_have_a_next_step_and_a_code() {
    let missing = load(Some(Path::new("/nonexistent/p.toml")), &Overrides::default()).expect_err("missing");
    assert_eq!(missing.exit(), Exit::Usage);
    assert!(missing.to_string().contains("--config FILE"), "{missing}");
    let directory = load(Some(Path::new("/")), &Overrides::default()).expect_err("a directory");
    assert_eq!(directory.exit(), Exit::Usage);
    let denied = ConfigError::Read { path: "x".into(), source: std::io::ErrorKind::PermissionDenied.into() };
    assert_eq!(denied.exit(), Exit::Rights);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_with_a_message(text in "[a-z_\\[\\]={}\". 0-9\n]{0,200}") {
        if let Err(error) = read(&text) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
