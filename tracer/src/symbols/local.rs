//! Reading debug information on a thread of this process: for tests and other users of the library,
//! where no reader can be started. It survives a panic and slowness, not an end of the process.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use super::lookup::Lookup;
use crate::{elf::Image, model::Named, reader::client::Failure};

/// How long parsed debug information is kept without a question.
const IDLE: Duration = Duration::from_secs(30);

/// What is asked.
pub(crate) struct Question {
    pub(crate) image: Arc<Image>,
    pub(crate) split: Option<PathBuf>,
    pub(crate) address: u64,
    pub(crate) symbols_only: bool,
}

type Asked = (Question, SyncSender<Vec<Named>>);

/// The thread, once it has been needed.
#[derive(Debug, Default)]
pub(crate) struct Local(Option<SyncSender<Asked>>);

impl Local {
    /// Asks about one address; a thread that has not answered in time is left to itself.
    pub(crate) fn ask(
        &mut self,
        question: Question,
        patience: Duration,
    ) -> Result<Vec<Named>, Failure> {
        if self.0.is_none() {
            self.0 = Some(spawn().map_err(|error| Failure::Start(error.to_string()))?);
        }
        let (answer, reply) = sync_channel(1);
        let sent = self.0.as_ref().map(|to| to.send((question, answer)));
        if !matches!(sent, Some(Ok(()))) {
            self.0 = None;
            return Err(Failure::Nonsense);
        }
        reply.recv_timeout(patience).map_err(|error| {
            self.0 = None;
            match error {
                RecvTimeoutError::Timeout => Failure::Slow(patience),
                RecvTimeoutError::Disconnected => Failure::Died("a panic".to_owned()),
            }
        })
    }
}

fn spawn() -> std::io::Result<SyncSender<Asked>> {
    let (sender, questions) = sync_channel(1);
    thread::Builder::new()
        .name("symbolize".to_owned())
        .spawn(move || work(&questions))?;
    Ok(sender)
}

/// Answers until the asker is gone.
fn work(questions: &Receiver<Asked>) {
    let mut parsed: Option<Lookup> = None;
    loop {
        let question = if parsed.is_some() {
            questions.recv_timeout(IDLE)
        } else {
            questions.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        let (question, answer) = match question {
            Ok(asked) => asked,
            Err(RecvTimeoutError::Timeout) => {
                parsed = None;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut lookup = parsed.take().unwrap_or_else(Lookup::new);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let fd = question.image.fd()?;
            let names = lookup.names(
                &PathBuf::from(format!("/proc/self/fd/{fd}")),
                question.split.as_deref(),
                question.address,
                question.symbols_only,
            );
            Some((lookup, names))
        }));
        let names = match result {
            Ok(Some((lookup, names))) => {
                parsed = Some(lookup);
                names
            }
            Ok(None) | Err(_) => Vec::new(),
        };
        // The asker may have lost patience.
        let _ = answer.send(names);
    }
}
