//! The daemons of a cluster: the pods of its DaemonSet, asked through the API server with the user's own
//! kubeconfig. Each request goes to `…/pods/NAME:PORT/proxy/…`; the token of the daemon travels in
//! `X-Tracer-Token`, because the API server keeps `Authorization` to itself.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use bytes::Bytes;
use hyper::Request;
use k8s_openapi::api::core::v1::{self, Container, Secret};
use kube::{
    Api, Client, Config,
    api::ListParams,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{sync::OnceCell, time::timeout};

use super::{
    Failure,
    client::{AskError, Token, body},
};
use crate::daemon::access::TOKEN_HEADER;

/// The label that the chart and the manifests give the daemons' pods.
const LABEL: &str = "app.kubernetes.io/name=tracer";
/// Name of the port that they serve on, and its number where no port has that name.
const PORT: (&str, i32) = ("http", 9464);
/// The option by which a daemon is told who may ask.
const TOKENS: &str = "--token-file";

/// A cluster, as a kubeconfig describes it.
pub struct Cluster {
    /// That of the kubeconfig where there is none.
    context: Option<String>,
    /// `KUBECONFIG` or `~/.kube/config` where there is none.
    kubeconfig: Option<PathBuf>,
    /// Of the daemons.
    namespace: String,
    /// That of the Secret that the pods have where there is none.
    token: Option<Token>,
    client: OnceCell<Client>,
}

/// A daemon in a pod.
#[derive(Clone)]
pub struct Pod {
    client: Client,
    /// Path of the API server below which it answers.
    proxy: String,
    token: Option<Token>,
}

/// A pod by the name of its node, and why it can't be asked if it can't.
pub type Found = (String, Result<Pod, AskError>);

impl Pod {
    /// Asks it; the answer's body, of at most so many bytes.
    ///
    /// # Errors
    /// [`AskError`], but for those about time.
    pub async fn fetch(&self, path: &str, most: usize) -> Result<Bytes, AskError> {
        let mut request = Request::get(format!("{}{path}", self.proxy));
        if let Some(Token(token)) = &self.token {
            request = request.header(TOKEN_HEADER, token);
        }
        let request = request.body(Body::empty()).map_err(AskError::Request)?;
        let response = self.client.send(request).await;
        body(response.map_err(|e| AskError::Cluster(words(e)))?, most).await
    }
}

impl Cluster {
    /// One that is described there.
    #[must_use]
    pub fn new(
        context: Option<String>,
        kubeconfig: Option<PathBuf>,
        namespace: String,
        token: Option<Token>,
    ) -> Cluster {
        Cluster {
            context,
            kubeconfig,
            namespace,
            token,
            client: OnceCell::new(),
        }
    }

    /// The namespace that the context names, else `default`, as kubectl does.
    ///
    /// # Errors
    /// [`Failure`] when the kubeconfig can't be used.
    pub fn context_namespace(&self) -> Result<String, Failure> {
        let known = self.kubeconfig()?;
        let name = self.context.clone().or(known.current_context);
        let named = known
            .contexts
            .into_iter()
            .find(|one| Some(&one.name) == name.as_ref());
        let context = named.and_then(|named| named.context);
        let namespace = context.and_then(|context| context.namespace);
        Ok(namespace.unwrap_or_else(|| "default".to_owned()))
    }

    fn kubeconfig(&self) -> Result<Kubeconfig, Failure> {
        match &self.kubeconfig {
            Some(file) => Kubeconfig::read_from(file),
            None => Kubeconfig::read(),
        }
        .map_err(|error| Failure::usage(format!("the kubeconfig cannot be used: {}", words(error))))
    }

    /// Made once: a plugin may have to be asked for credentials.
    async fn client(&self) -> Result<Client, Failure> {
        let make = || async {
            let options = KubeConfigOptions {
                context: self.context.clone(),
                ..KubeConfigOptions::default()
            };
            let config = Config::from_custom_kubeconfig(self.kubeconfig()?, &options).await;
            let mut config = config.map_err(|error| {
                Failure::usage(format!("the kubeconfig cannot be used: {}", words(error)))
            })?;
            // who does not answer is named
            config.default_retry = false;
            Client::try_from(config).map_err(|error| {
                Failure::failed(format!("cannot ask the cluster: {}", words(error)))
            })
        };
        self.client.get_or_try_init(make).await.cloned()
    }

    /// The daemons, by their nodes.
    ///
    /// # Errors
    /// [`Failure`] when the pods can't be listed within `limit`, or there are none.
    pub async fn daemons(&self, limit: Duration) -> Result<Vec<Found>, Failure> {
        let found = timeout(limit, self.find());
        found.await.unwrap_or_else(|_| {
            let limit = limit.as_secs_f64();
            Err(Failure::failed(format!(
                "the API server has not listed tracer's pods within {limit} s"
            )))
        })
    }

    async fn find(&self) -> Result<Vec<Found>, Failure> {
        let client = self.client().await?;
        let namespace = &self.namespace;
        let pods = Api::<v1::Pod>::namespaced(client.clone(), namespace);
        let pods = pods.list(&ListParams::default().labels(LABEL)).await;
        let pods = pods.map_err(|error| {
            let why = words(error);
            Failure::failed(format!(
                "cannot list tracer's pods in namespace {namespace}: {why}"
            ))
        })?;
        if pods.items.is_empty() {
            return Err(Failure::failed(format!(
                "no pod of namespace {namespace} has the label {LABEL}; --tracer-namespace says where the \
                 daemons run"
            )));
        }
        let mut tokens: HashMap<Place, Result<Token, AskError>> = HashMap::new();
        let mut found = Vec::new();
        for pod in pods.items {
            let known = Daemon::of(&pod);
            let mut token = Ok(self.token.clone());
            if let (None, Some(place)) = (&self.token, &known.secret) {
                if !tokens.contains_key(place) {
                    let read = token_of(&client, namespace, place).await;
                    tokens.insert(place.clone(), read);
                }
                token = match &tokens[place] {
                    Ok(token) => Ok(Some(token.clone())),
                    Err(error) => Err(AskError::Cluster(error.to_string())),
                };
            }
            let ready = known.ready.map_err(AskError::NotRunning);
            let result = ready.and(token).map(|token| Pod {
                client: client.clone(),
                proxy: format!(
                    "/api/v1/namespaces/{namespace}/pods/{}:{}/proxy",
                    known.name, known.port
                ),
                token,
            });
            found.push((known.node, result));
        }
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(found)
    }
}

/// A Secret and a key in it.
type Place = (String, String);

/// What a pod says of the daemon in it.
#[derive(Debug, PartialEq, Eq)]
struct Daemon {
    name: String,
    node: String,
    port: i32,
    /// Why it can't be asked.
    ready: Result<(), String>,
    /// Where its tokens are.
    secret: Option<Place>,
}

impl Daemon {
    fn of(pod: &v1::Pod) -> Daemon {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let spec = pod.spec.as_ref();
        let node = spec.and_then(|spec| spec.node_name.clone());
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.clone());
        let phase = phase.unwrap_or_else(|| "Unknown".to_owned());
        let ready = match (pod.metadata.deletion_timestamp.is_some(), phase.as_str()) {
            (true, _) => Err(format!("its pod {name} is being replaced")),
            (false, "Running") => Ok(()),
            (false, phase) => Err(format!("its pod {name} is {phase}")),
        };
        let containers = spec.map_or(&[][..], |spec| &spec.containers);
        let ports = containers.iter().flat_map(|one| one.ports.iter().flatten());
        let port = ports
            .filter(|port| port.name.as_deref() == Some(PORT.0))
            .map(|port| port.container_port)
            .next();
        let secret = spec.and_then(|spec| containers.iter().find_map(|one| secret(spec, one)));
        Daemon {
            node: node.unwrap_or_else(|| name.clone()),
            name,
            port: port.unwrap_or(PORT.1),
            ready,
            secret,
        }
    }
}

/// The Secret that holds the file of `--token-file`.
fn secret(spec: &v1::PodSpec, container: &Container) -> Option<Place> {
    let arguments = container.args.as_ref()?;
    let (place, after) = arguments.iter().enumerate().find_map(|(place, one)| {
        let after = one.strip_prefix(TOKENS)?;
        Some((place, after))
    })?;
    let file = match after.strip_prefix('=') {
        Some(file) => file,
        None => arguments.get(place + 1)?,
    };
    let mounts = container.volume_mounts.iter().flatten();
    let mut within = mounts.filter_map(|mount| {
        let key = file.strip_prefix(&mount.mount_path)?.strip_prefix('/')?;
        Some((&mount.name, key))
    });
    let (volume, key) = within.next()?;
    let mut volumes = spec.volumes.iter().flatten();
    let volume = volumes.find(|one| one.name == *volume)?;
    let secret = volume.secret.as_ref()?;
    let items = secret.items.iter().flatten();
    let mut items = items.filter(|item| item.path == key);
    let key = items.next().map_or(key, |item| &item.key);
    Some((secret.secret_name.clone()?, key.to_owned()))
}

async fn token_of(client: &Client, namespace: &str, place: &Place) -> Result<Token, AskError> {
    let (name, key) = place;
    let wrong = |why: &str| {
        AskError::Cluster(format!(
            "no token can be had from key {key} of the Secret {name} ({why}); --token-file gives one"
        ))
    };
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let secret = secrets.get(name).await;
    let secret = secret.map_err(|error| wrong(&words(error)))?;
    let data = secret.data.as_ref().and_then(|data| data.get(key));
    let text = data.map(|data| String::from_utf8_lossy(&data.0).into_owned());
    let text = text.ok_or_else(|| wrong("there is no such key"))?;
    Token::first(&text).ok_or_else(|| wrong("it is empty"))
}

/// An error with all that it was caused by, each cause once.
fn words(error: impl std::error::Error + Send + Sync + 'static) -> String {
    let error = anyhow::Error::new(error);
    let mut said: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !said.last().is_some_and(|last| last.contains(&cause)) {
            said.push(cause);
        }
    }
    said.join(": ")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(args: &Value, phase: &str) -> v1::Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "tracer-x7k2p" },
            "spec": {
                "nodeName": "node-a",
                "containers": [{
                    "name": "tracer", "args": args,
                    "ports": [{ "name": "http", "containerPort": 9000 }],
                    "volumeMounts": [
                        { "name": "run", "mountPath": "/run/tracer" },
                        { "name": "tokens", "mountPath": "/run/secrets/tracer" },
                    ],
                }],
                "volumes": [
                    { "name": "run", "emptyDir": {} },
                    { "name": "tokens", "secret": { "secretName": "tracer-tokens" } },
                ],
            },
            "status": { "phase": phase },
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_says_where_its_daemon_and_its_tokens_are() {
        let args = json!(["daemon", "--token-file", "/run/secrets/tracer/tokens"]);
        let known = Daemon::of(&pod(&args, "Running"));
        assert_eq!(
            known,
            Daemon {
                name: "tracer-x7k2p".to_owned(),
                node: "node-a".to_owned(),
                port: 9000,
                ready: Ok(()),
                secret: Some(("tracer-tokens".to_owned(), "tokens".to_owned())),
            }
        );
        let other = Daemon::of(&pod(
            &json!(["daemon", "--token-file", "/etc/x"]),
            "Pending",
        ));
        assert_eq!(other.secret, None);
        let joined = json!(["daemon", "--token-file=/run/secrets/tracer/tokens"]);
        assert_eq!(Daemon::of(&pod(&joined, "Running")), known);
        assert_eq!(
            other.ready,
            Err("its pod tracer-x7k2p is Pending".to_owned())
        );
        let bare = Daemon::of(&v1::Pod::default());
        assert_eq!((bare.port, bare.ready.is_err()), (9464, true));
    }

    #[test]
    fn a_context_names_a_namespace() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "contexts": [
                { "name": "x", "context": { "cluster": "c", "user": "u", "namespace": "shop" } },
                { "name": "y", "context": { "cluster": "c", "user": "u" } },
            ],
        });
        std::fs::write(&file, text.to_string()).unwrap();
        let of = |context: Option<&str>| {
            let context = context.map(str::to_owned);
            let cluster = Cluster::new(context, Some(file.clone()), String::new(), None);
            cluster.context_namespace().unwrap()
        };
        assert_eq!(of(None), "shop");
        assert_eq!(of(Some("y")), "default");
        let none = Cluster::new(None, Some("/no/such/file".into()), String::new(), None);
        assert_eq!(none.context_namespace().unwrap_err().status, 2);
    }
}
