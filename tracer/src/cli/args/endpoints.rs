//! Where the daemons are, and how they are asked.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueHint};

use crate::cli::{
    Failure,
    client::{Endpoint, Token},
    fleet::{Fleet, Whom},
    pods::Cluster,
    units,
};

/// Where the daemons are.
#[derive(Debug, Default, Args)]
pub struct EndpointArgs {
    /// Daemon to ask: a socket path, HOST:PORT or http://HOST:PORT (may be repeated); a name of
    /// several addresses, such as a headless service, is asked at each, and dns:NAME:PORT says that
    /// it is one [default: the local socket]
    #[arg(
        long,
        value_name = "ENDPOINT",
        env = "TRACER_ENDPOINT",
        value_delimiter = ','
    )]
    pub endpoint: Vec<String>,
    /// How to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

impl EndpointArgs {
    /// The daemons to ask.
    ///
    /// # Errors
    /// As [`Endpoint::all`].
    pub fn fleet(&self) -> Result<Fleet, Failure> {
        self.ask.fleet(&self.endpoint)
    }
}

/// How daemons are asked.
#[derive(Debug, Default, Args)]
pub struct AskArgs {
    /// Ask over TCP with the first token of this file
    #[arg(
        long,
        value_name = "FILE",
        env = "TRACER_TOKEN_FILE",
        value_hint = ValueHint::FilePath
    )]
    pub token_file: Option<PathBuf>,
    /// Wait so long for each daemon, and six times as long for all [default: 10s; for the slowest of
    /// many as long again as the others took]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    pub timeout: Option<Duration>,
    /// Which cluster.
    #[command(flatten)]
    pub kube: KubeArgs,
}

impl AskArgs {
    /// The daemons to ask.
    ///
    /// # Errors
    /// As [`Endpoint::all`].
    pub fn fleet(&self, endpoints: &[String]) -> Result<Fleet, Failure> {
        if self.kube.kube {
            return Fleet::new(Whom::Cluster(Box::new(self.cluster()?)), self.timeout);
        }
        let endpoints = Endpoint::all(endpoints, self.token_file.as_deref())?;
        Fleet::new(Whom::Endpoints(endpoints), self.timeout)
    }

    /// The cluster to ask.
    ///
    /// # Errors
    /// When the token's file has none.
    pub fn cluster(&self) -> Result<Cluster, Failure> {
        let token = self.token_file.as_deref().map(Token::read).transpose()?;
        let kube = &self.kube;
        Ok(Cluster::new(
            kube.context.clone(),
            kube.kubeconfig.clone(),
            kube.tracer_namespace.clone(),
            token,
        ))
    }
}

/// A cluster whose daemons are asked.
#[derive(Debug, Default, Args)]
pub struct KubeArgs {
    /// Ask the daemons of a Kubernetes cluster, in place of endpoints: through its API server, with
    /// your own kubeconfig, and with the token of the daemons' Secret or of --token-file
    #[arg(long)]
    pub kube: bool,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME", requires = "kube")]
    pub context: Option<String>,
    /// The kubeconfig [default: KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "kube")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the daemons
    #[arg(long, value_name = "NS", default_value = "tracer", requires = "kube")]
    pub tracer_namespace: String,
}
