//! What a connection speaks that is neither HTTP nor TLS, by the first bytes of its first messages. Pure.
//!
//! Kept are the protocol and, where a message says it, the database: no user, no password, no content.
//! Where the first bytes alone could be another protocol's, the server's port has to agree.

mod amqp;
mod bytes;
mod dns;
mod imap;
mod kafka;
mod ldap;
mod memcached;
mod mongodb;
mod mqtt;
mod mysql;
mod nats;
mod postgres;
mod proxy;
mod redis;
mod smtp;
mod ssh;

use serde::{Deserialize, Serialize};

use super::{
    RequestHead,
    redact::{VARIABLE, redact_target},
    sniff,
};

/// Protocols that are known by their first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Service {
    Amqp,
    Dns,
    Imap,
    Kafka,
    Ldap,
    Memcached,
    Mongodb,
    Mqtt,
    Mysql,
    Nats,
    Postgres,
    Redis,
    Smtp,
    Ssh,
}

impl Service {
    /// Its name, as URLs have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Service::Amqp => "amqp",
            Service::Dns => "dns",
            Service::Imap => "imap",
            Service::Kafka => "kafka",
            Service::Ldap => "ldap",
            Service::Memcached => "memcached",
            Service::Mongodb => "mongodb",
            Service::Mqtt => "mqtt",
            Service::Mysql => "mysql",
            Service::Nats => "nats",
            Service::Postgres => "postgres",
            Service::Redis => "redis",
            Service::Smtp => "smtp",
            Service::Ssh => "ssh",
        }
    }

    /// The one that URLs name so.
    #[must_use]
    pub fn named(name: &str) -> Option<Service> {
        READERS
            .iter()
            .map(|&(service, _)| service)
            .find(|service| service.name() == name)
    }

    /// Whether its messages may say which database, or virtual host, they are about.
    #[must_use]
    pub fn has_databases(self) -> bool {
        matches!(
            self,
            Service::Amqp | Service::Mongodb | Service::Mysql | Service::Postgres | Service::Redis
        )
    }
}

/// One of the first messages of a client's connection.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Its first bytes.
    pub bytes: &'a [u8],
    /// Bytes that the call sent or received.
    pub len: usize,
    /// Sent by the client; else the server's first.
    pub sent: bool,
    /// The server's port; 0: none.
    pub port: u16,
}

/// What a message says of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoken {
    /// The protocol.
    pub service: Service,
    /// The database, where it is named and no secret.
    pub database: Option<String>,
}

/// Of a message of the protocol: the database that it names, if any; `None`: it is another's.
type Reader = fn(&Message<'_>) -> Option<Option<String>>;

/// A reader for each protocol; those come first whose bytes can be no other's.
const READERS: &[(Service, Reader)] = &[
    (Service::Postgres, postgres::read),
    (Service::Mysql, mysql::read),
    (Service::Mongodb, mongodb::read),
    (Service::Amqp, amqp::read),
    (Service::Mqtt, mqtt::read),
    (Service::Ssh, ssh::read),
    (Service::Nats, nats::read),
    (Service::Redis, redis::read),
    (Service::Ldap, ldap::read),
    (Service::Smtp, smtp::read),
    (Service::Imap, imap::read),
    (Service::Kafka, kafka::read),
    (Service::Memcached, memcached::read),
    (Service::Dns, dns::read),
];

/// The request of HTTP/1 that a proxy passes on in the message that says who it is from.
#[must_use]
pub fn passed_on(message: &Message<'_>) -> Option<RequestHead> {
    let behind = proxy::behind(message).filter(|_| message.sent)?;
    sniff(behind.bytes)
}

/// What a message says of its connection, of which `known` is known already: then only whether it names
/// a database.
#[must_use]
pub fn hear(message: &Message<'_>, known: Option<Service>) -> Option<Spoken> {
    let whole = proxy::behind(message);
    let message = whole.as_ref().unwrap_or(message);
    READERS
        .iter()
        .filter(|(service, _)| known.is_none_or(|known| known == *service))
        .find_map(|&(service, read)| {
            let database = read(message)?.filter(|name| is_name(name));
            Some(Spoken { service, database })
        })
}

/// Longest name of a database.
const NAME_BYTES_MAX: usize = 64;

/// Whether a text may be shown as the name of a database: a word, and none that looks like a secret.
fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'$');
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(plain)
        && !redact_target(text.as_bytes(), false).contains(VARIABLE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message that was sent in one call.
    pub(super) fn sent(bytes: &[u8], port: u16) -> Message<'_> {
        Message {
            bytes: &bytes[..bytes.len().min(128)],
            len: bytes.len(),
            sent: true,
            port,
        }
    }

    /// The server's first.
    pub(super) fn received(bytes: &[u8], port: u16) -> Message<'_> {
        Message {
            sent: false,
            ..sent(bytes, port)
        }
    }

    /// Protocol and database, as URLs have them.
    pub(super) fn heard(message: &Message<'_>) -> Option<(&'static str, Option<String>)> {
        hear(message, None).map(|spoken| (spoken.service.name(), spoken.database))
    }

    #[test]
    fn names_that_may_be_secrets_are_not_shown() {
        for name in ["orders", "tenant_17", "shop-eu.main", "0"] {
            assert!(is_name(name), "{name}");
        }
        let long = "a".repeat(65);
        for name in [
            "",
            "a b",
            "a/b",
            "me:pw@host",
            "ghp_0123456789abcdefghijABCDEFGHIJ012345",
            &long,
        ] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn what_is_no_known_protocol_has_no_name() {
        let other: &[&[u8]] = &[
            b"",
            b"\0",
            b"hello\n",
            b"GET 17\n",
            b"PING\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            b"{\"method\":\"ping\"}\n",
            b"\0\0\0\x05hello",
            b"\x05\0\0\0hello",
            b"\0\x05hello",
            b"\x08\0\0\0\0\0\0\0",
            &[0; 128],
            &[0xff; 128],
            b"user=me&password=hunter2",
        ];
        for bytes in other {
            for port in [0, 80, 3306, 5000, 8080, 8081] {
                assert_eq!(heard(&sent(bytes, port)), None, "{bytes:?} to {port}");
                assert_eq!(heard(&received(bytes, port)), None, "{bytes:?} from {port}");
            }
        }
    }

    #[test]
    fn what_is_known_stays_known() {
        let select = b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n";
        assert_eq!(hear(&sent(select, 6379), Some(Service::Postgres)), None);
        let spoken = hear(&sent(select, 6379), Some(Service::Redis));
        assert_eq!(spoken.and_then(|s| s.database).as_deref(), Some("3"));
    }

    #[test]
    fn names_lead_back_to_protocols() {
        for &(service, _) in READERS {
            assert_eq!(Service::named(service.name()), Some(service));
        }
        assert_eq!(Service::named("http"), None);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..128),
            more in 0usize..1000,
            port in prop_oneof![Just(0u16), Just(53), Just(389), Just(6379), Just(9092), Just(11211)],
            is_sent in any::<bool>(),
        ) {
            let message = Message { bytes: &bytes, len: bytes.len() + more, sent: is_sent, port };
            let _ = hear(&message, None);
            for &(service, _) in READERS {
                let _ = hear(&message, Some(service));
            }
        }

        #[test]
        fn users_and_passwords_stay_behind(
            user in "SECRETU[a-z0-9]{4,12}",
            password in "SECRETP[a-z0-9]{4,12}",
            keep in 0usize..128,
        ) {
            let mut startup = vec![0, 0, 0, 0, 0, 3, 0, 0];
            startup.extend(format!("user\0{user}\0database\0orders\0options\0{password}\0\0").bytes());
            startup[3] = startup.len() as u8;
            let auth = format!(
                "*3\r\n$4\r\nAUTH\r\n${}\r\n{user}\r\n${}\r\n{password}\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n",
                user.len(), password.len(),
            );
            let mut login = vec![0, 0, 0, 1, 0x0d, 0xa2, 0x0a, 0, 0, 0, 0, 1, 45];
            login.extend([0; 23]);
            login.extend(format!("{user}\0").bytes());
            login.push(password.len() as u8);
            login.extend(password.bytes());
            login.extend(b"orders\0");
            login[0] = (login.len() - 4) as u8;
            let mail = format!("EHLO {user}\r\n{password}\r\n");
            let nats = format!("CONNECT {{\"user\":\"{user}\",\"pass\":\"{password}\"}}\r\n");
            for whole in [startup, auth.into_bytes(), login, mail.into_bytes(), nats.into_bytes()] {
                let message = Message {
                    bytes: &whole[..keep.min(whole.len())],
                    len: whole.len(),
                    sent: true,
                    port: 6379,
                };
                for known in [None, Some(Service::Redis), Some(Service::Mysql), Some(Service::Postgres)] {
                    let seen = format!("{:?}", hear(&message, known));
                    prop_assert!(!seen.to_uppercase().contains("SECRET"), "{seen}");
                }
            }
        }
    }
}
