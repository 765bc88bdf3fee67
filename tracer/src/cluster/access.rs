//! Where the API server is, and who asks it.

use std::path::PathBuf;

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use thiserror::Error;

/// How the API server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig; without, what a pod is given: its service account.
    pub kubeconfig: Option<PathBuf>,
}

/// Why the API server can't even be asked.
#[derive(Debug, Error)]
pub enum AccessError {
    /// There is no service account.
    #[error(
        "this is no pod with a token of a service account ({0}); `kubeconfig` of `[kubernetes]` in the \
         configuration, or KUBECONFIG, names another way"
    )]
    NoServiceAccount(#[from] kube::config::InClusterError),
    /// The kubeconfig can't be used.
    #[error("the kubeconfig {path} cannot be used: {error}")]
    Kubeconfig {
        /// File.
        path: PathBuf,
        /// Why.
        error: kube::config::KubeconfigError,
    },
    /// There can be no client.
    #[error("{0}")]
    Client(#[from] kube::Error),
}

impl Access {
    /// A client, with what the files say now: tokens and certificates are rotated.
    ///
    /// # Errors
    /// [`AccessError`].
    pub async fn client(&self) -> Result<Client, AccessError> {
        let mut config = match &self.kubeconfig {
            None => Config::incluster()?,
            Some(path) => {
                let wrong = |error| AccessError::Kubeconfig {
                    path: path.clone(),
                    error,
                };
                let read = Kubeconfig::read_from(path).map_err(wrong)?;
                let options = KubeConfigOptions::default();
                let config = Config::from_custom_kubeconfig(read, &options);
                config.await.map_err(wrong)?
            }
        };
        // how often is asked is decided here
        config.default_retry = false;
        Ok(Client::try_from(config)?)
    }
}
