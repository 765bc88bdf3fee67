//! Objects of the cluster that name addresses, followed whole: what they say is not in their metadata.

use std::{marker::PhantomData, sync::Arc};

use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Remotes,
    remotes::{Claim, Source},
    watch::Followed,
};
use crate::procs::{clock::monotonic_ns, pods::is_name};

/// A sort of such objects.
pub trait Namer: DeserializeOwned + Clone {
    /// Which sort, for what is known of them.
    const SOURCE: Source;
    /// Path of all of them.
    const PATH: &'static str;
    /// What roles call them.
    const RESOURCE: &'static str;
    /// What they are called in sentences.
    const CALLED: &'static str;

    /// Its metadata.
    fn metadata(&self) -> &Metadata;

    /// What it says of addresses.
    fn claims(&self) -> Vec<Claim>;
}

/// What is read of the metadata of one.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    resource_version: Option<String>,
    /// Labels.
    pub labels: Option<Labels>,
}

/// The one label that is read.
#[derive(Debug, Clone, Deserialize)]
pub struct Labels {
    /// Of a slice, the service that it is of.
    #[serde(rename = "kubernetes.io/service-name")]
    pub service: Option<String>,
}

/// A port of one.
#[derive(Debug, Clone, Deserialize)]
pub struct Port {
    port: Option<u32>,
    protocol: Option<String>,
}

impl Port {
    /// Its number, if it is one of TCP.
    pub fn of_tcp(&self) -> Option<u16> {
        let is_tcp = self.protocol.as_deref().is_none_or(|name| name == "TCP");
        let number = self.port.filter(|_| is_tcp)?;
        u16::try_from(number).ok().filter(|&number| number != 0)
    }
}

/// A name as the cluster's DNS forms it, of a service (`svc`) or pod (`pod`); `None` where it is none.
pub fn full_name(name: &str, namespace: &str, kind: &str) -> Option<Arc<str>> {
    let named = is_name(name) && is_name(namespace);
    named.then(|| Arc::from(format!("{name}.{namespace}.{kind}")))
}

/// All objects of one sort.
#[derive(Debug)]
pub struct Namers<N> {
    remotes: Remotes,
    sort: PhantomData<N>,
}

impl<N: Namer> Namers<N> {
    /// They tell this.
    pub fn of(remotes: Remotes) -> Namers<N> {
        Namers {
            remotes,
            sort: PhantomData,
        }
    }
}

impl<N: Namer> Followed for Namers<N> {
    type Object = N;
    const PATH: &'static str = N::PATH;
    const RESOURCE: &'static str = N::RESOURCE;
    const WHOLE: bool = true;
    /// As kubectl has it.
    const PAGE: Option<u32> = Some(500);

    fn what(&self) -> String {
        N::CALLED.to_owned()
    }

    fn selector(&self) -> Option<String> {
        None
    }

    fn version(object: &N) -> Option<&str> {
        object.metadata().resource_version.as_deref()
    }

    fn begin(&mut self) {
        self.remotes.names().begin(N::SOURCE);
    }

    fn put(&mut self, object: N) {
        let says = object.claims();
        if let Some(id) = id(object.metadata()) {
            let mut names = self.remotes.names();
            names.put(N::SOURCE, id, says, monotonic_ns());
        }
    }

    fn only(&mut self) {
        self.remotes.names().only(N::SOURCE, monotonic_ns());
    }

    fn gone(&mut self, object: N) {
        if let Some(id) = id(object.metadata()) {
            self.remotes.names().gone(N::SOURCE, id, monotonic_ns());
        }
    }

    fn heard(&mut self) {
        self.remotes.names().heard(N::SOURCE, monotonic_ns());
    }

    fn is_troubled(&self) -> bool {
        self.remotes.names().is_troubled(N::SOURCE)
    }

    fn set_trouble(&mut self, trouble: Option<String>) {
        self.remotes.names().set_trouble(N::SOURCE, trouble);
    }
}

/// What tells one from others of its sort; `None` where it has no name that it can have.
fn id(metadata: &Metadata) -> Option<String> {
    let named = is_name(&metadata.namespace) && is_name(&metadata.name);
    named.then(|| format!("{}/{}", metadata.namespace, metadata.name))
}
