//! What a configuration must be beyond its types. Every message says what to do.

use super::{Config, ConfigError, KeyAlgorithm, LogKind, Role, StoreKind, TenantKey};

const EPOCH_MAX: u32 = (1 << 22) - 1;

impl Config {
    /// Finds everything that is wrong, not only the first.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut found = Vec::new();
        self.check_lane(&mut found);
        self.check_addresses(&mut found);
        self.check_backends(&mut found);
        for (name, tenant) in &self.tenants {
            let mut kids: Vec<&str> = tenant.keys.iter().map(|k| k.kid.as_str()).collect();
            kids.sort_unstable();
            if kids.windows(2).any(|w| w[0] == w[1]) {
                found.push(format!(
                    "tenants.{name}.keys: a kid stands twice; tokens could not say which is meant"
                ));
            }
            for key in &tenant.keys {
                self.check_key(name.as_str(), key, &mut found);
            }
            for origin in tenant.origins.iter().filter(|o| *o != "*") {
                let host = origin
                    .strip_prefix("https://")
                    .or_else(|| origin.strip_prefix("http://"));
                if host.is_none_or(|h| h.is_empty() || h.contains('/')) {
                    found.push(format!(
                        "tenants.{name}.origins: {origin:?} is no origin; write it as browsers send it: https://shop.example, without a path"
                    ));
                }
            }
        }
        if found.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::Invalid(found))
        }
    }

    fn check_lane(&self, found: &mut Vec<String>) {
        if self.epoch == 0 || self.epoch > EPOCH_MAX {
            found.push(format!("epoch = {}: must be 1 … {EPOCH_MAX}", self.epoch));
        }
        if self.partitions == 0 || self.partitions > 10_000 {
            found.push(format!("partitions = {}: must be 1 … 10000", self.partitions));
        }
        if self.replication == 0 {
            found.push("replication = 0: must be at least 1; 3 in production".into());
        }
        if self.roles.is_empty() {
            found.push("roles is empty: name at least one of ingress, delivery, desk, persistence".into());
        }
        if self.drain.deadline_ms == 0 {
            found.push("drain.deadline_ms = 0: nothing could be handed over; give it some seconds".into());
        }
        if self.drain.goaway_batches == 0 {
            found.push("drain.goaway_batches = 0: must be at least 1".into());
        }
    }

    fn check_addresses(&self, found: &mut Vec<String>) {
        let listens = [
            ("listen.ws_http", &self.listen.ws_http),
            ("listen.tcp", &self.listen.tcp),
            ("listen.ops", &self.listen.ops),
            ("link.listen", &self.link.listen),
            ("link.advertise", &self.link.advertise),
        ];
        for (name, address) in listens.iter().filter(|(_, a)| !a.is_empty()) {
            if !is_host_and_port(address) {
                found.push(format!(
                    "{name} = {address:?}: write host:port, for example 127.0.0.1:8080"
                ));
            }
        }
        if self.roles.contains(&Role::Ingress) && self.listen.ws_http.is_empty() && self.listen.tcp.is_empty() {
            found.push("role ingress has nothing to listen on: set listen.ws_http or listen.tcp".into());
        }
        if self.http.client_address_header.is_empty() != self.http.trusted_proxies.is_empty() {
            found.push(
                "http: client_address_header and trusted_proxies go together: a header is believed from named proxies only"
                    .into(),
            );
        }
        if self.tls.cert_file.is_empty() != self.tls.key_file.is_empty() {
            found.push("tls: cert_file and key_file go together; one is missing".into());
        }
        let link = &self.link.tls;
        let set = [&link.cert_file, &link.key_file, &link.ca_file]
            .iter()
            .filter(|f| !f.is_empty())
            .count();
        if set != 0 && set != 3 {
            found.push("link.tls: cert_file, key_file and ca_file go together; some are missing".into());
        }
    }

    fn check_backends(&self, found: &mut Vec<String>) {
        match self.log.kind {
            LogKind::Embedded if self.log.dir.is_empty() => found.push("log.dir is empty: name a directory".into()),
            LogKind::Kafka if self.log.brokers.is_empty() => {
                found.push("log.brokers is empty: name at least one host:port".into());
            }
            _ => {}
        }
        let protocols = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];
        if !protocols.contains(&self.log.kafka.protocol.as_str()) {
            let given = &self.log.kafka.protocol;
            found.push(format!(
                "log.kafka.protocol = {given:?}: must be one of {}",
                protocols.join(", ")
            ));
        }
        if self.log.kafka.protocol.starts_with("sasl") && self.log.kafka.user.is_empty() {
            found.push("log.kafka.user is empty, but the protocol asks for one".into());
        }
        let whole_log = [Role::Ingress, Role::Delivery, Role::Desk, Role::Persistence];
        if self.log.kind == LogKind::Embedded && !whole_log.iter().all(|r| self.roles.contains(r)) {
            found.push(
                "log.kind = \"embedded\" is for one process with all four roles; use \"kafka\" to split them".into(),
            );
        }
        match self.store.kind {
            StoreKind::Embedded if self.store.dir.is_empty() => {
                found.push("store.dir is empty: name a directory".into())
            }
            StoreKind::Cql if self.store.nodes.is_empty() => {
                found.push("store.nodes is empty: name at least one host:port".into());
            }
            _ => {}
        }
        let name_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !self.store.keyspace.starts_with(|c: char| c.is_ascii_lowercase())
            || !self.store.keyspace.chars().all(name_ok)
        {
            found.push(format!(
                "store.keyspace = {:?}: use a–z, 0–9 and _, a letter first",
                self.store.keyspace
            ));
        }
    }

    fn check_key(&self, tenant: &str, key: &TenantKey, found: &mut Vec<String>) {
        let at = format!("tenants.{tenant}.keys, kid {:?}", key.kid);
        if key.kid.is_empty() {
            found.push(format!("{at}: a key needs a kid"));
        }
        if key.alg == KeyAlgorithm::HS256 {
            if !self.dev {
                found.push(format!(
                    "{at}: HS256 is for development only (dev = true); use EdDSA, ES256 or RS256"
                ));
            }
            if key.secret.is_empty() {
                found.push(format!("{at}: HS256 needs secret or secret_file"));
            }
        } else if key.key.is_empty() {
            found.push(format!(
                "{at}: {:?} needs key (the public key, PEM) or key_file",
                key.alg
            ));
        }
    }
}

fn is_host_and_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok() && (!host.contains(':') || host.starts_with('['))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        match config.validate() {
            Ok(()) => String::new(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(faults(|_| ()), "");
    }

    #[test]
    fn each_fault_is_named_with_its_key() {
        assert!(faults(|c| c.epoch = 0).contains("epoch = 0"));
        assert!(faults(|c| c.partitions = 0).contains("partitions = 0"));
        assert!(faults(|c| c.roles.clear()).contains("roles is empty"));
        assert!(faults(|c| c.roles = vec![Role::Ingress]).contains("log.kind"));
        assert!(faults(|c| c.listen.tcp = "8081".into()).contains("listen.tcp"));
        assert!(faults(|c| c.listen.tcp = "::1:8081".into()).contains("listen.tcp"));
        assert!(faults(|c| c.tls.cert_file = "a.pem".into()).contains("tls:"));
        assert!(faults(|c| c.log.kafka.protocol = "tls".into()).contains("log.kafka.protocol"));
        assert!(faults(|c| c.store.keyspace = "a; drop".into()).contains("store.keyspace"));
    }

    #[test]
    fn hs256_is_refused_in_production() {
        let with_key = |dev: bool| {
            faults(|c| {
                c.dev = dev;
                let key = TenantKey {
                    kid: "dev".into(),
                    alg: KeyAlgorithm::HS256,
                    secret: super::super::Secret::new("x"),
                    ..Default::default()
                };
                c.tenants.entry("demo".parse().unwrap()).or_default().keys.push(key);
            })
        };
        assert!(with_key(false).contains("HS256 is for development only"));
        assert_eq!(with_key(true), "");
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let text = faults(|c| {
            c.epoch = 0;
            c.partitions = 0;
        });
        assert!(text.contains("epoch") && text.contains("partitions"), "{text}");
    }
}
