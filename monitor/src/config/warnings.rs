//! Settings that are valid and that an operator may regret. They stop nothing; `check-config` and the start say them.

use std::net::SocketAddr;

use peertally_core::words::SubscriberForm;

use super::Resolved;

impl Resolved {
    /// What is worth a second look, each with the next step.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let listen = warn_of_listen(self.listen, self.subscriber_metrics, self.top_k);
        let hooks = self
            .hooks
            .iter()
            .filter(|hook| hook.target.is_readable_on_the_way() && hook.subscriber != SubscriberForm::Pseudonym);
        let hooks = hooks.map(|hook| {
            format!(
                "hook `{}` sends the subscriber's address block without encryption ({}); use https, or `subscriber = \"pseudonym\"`",
                hook.name,
                hook.target.describe()
            )
        });
        listen.into_iter().chain(hooks).collect()
    }
}

fn warn_of_listen(listen: SocketAddr, subscriber_metrics: bool, top_k: usize) -> Option<String> {
    if listen.ip().to_canonical().is_loopback() {
        return None;
    }
    let shown = match (subscriber_metrics, top_k) {
        (true, _) => "every subscriber under a pseudonym",
        (false, 0) => "traffic of the node",
        (false, _) => "the top subscribers under a pseudonym",
    };
    Some(format!(
        "`listen` {listen} can be reached from other machines, without a password and without TLS, and shows {shown}; listen on \
         127.0.0.1 behind a proxy, or let a filter pass the monitoring server only"
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Overrides, parse};

    fn warnings(text: &str) -> Vec<String> {
        parse(Path::new("p.toml"), text, &Overrides::default()).expect("valid").warnings()
    }

    #[test]
    fn a_port_that_the_network_reaches_is_warned_of() {
        for listen in ["0.0.0.0:9847", "[::]:9847", "192.0.2.1:9847"] {
            let said = warnings(&format!("listen = \"{listen}\"\n"));
            assert!(said.len() == 1 && said[0].contains(listen) && said[0].contains("top subscribers"), "{said:?}");
        }
        let said = warnings("listen = \"0.0.0.0:1\"\n[metrics]\nsubscribers = true\n");
        assert!(said[0].contains("every subscriber"), "{said:?}");
        for listen in ["127.0.0.1:9847", "127.8.0.1:1", "[::1]:9847", "[::ffff:127.0.0.1]:9847"] {
            assert_eq!(warnings(&format!("listen = \"{listen}\"\n")), [""; 0]);
        }
    }

    #[test]
    fn address_blocks_in_clear_are_warned_of() {
        let hook = |url: &str, subscriber: &str| {
            format!("[[hooks]]\nname = \"desk\"\nsubscriber = \"{subscriber}\"\n[hooks.webhook]\nurl = \"{url}\"\n")
        };
        for subscriber in ["both", "block"] {
            let said = warnings(&hook("http://abuse.example.net/events?token=secret", subscriber));
            assert!(said.len() == 1 && said[0].contains("hook `desk`") && said[0].contains("https"), "{said:?}");
            assert!(!said[0].contains("secret"), "{said:?}");
        }
        for (url, subscriber) in [
            ("http://abuse.example.net/", "pseudonym"),
            ("https://abuse.example.net/", "both"),
            ("http://127.0.0.1:8080/", "both"),
            ("http://[::1]/", "both"),
            ("http://localhost/", "both"),
        ] {
            assert_eq!(warnings(&hook(url, subscriber)), [""; 0], "{url} {subscriber}");
        }
        assert_eq!(warnings("[[hooks]]\nname = \"a\"\nsubscriber = \"both\"\nexec = [\"/bin/true\"]\n"), [""; 0]);
    }
}
