//! A language's KVS channel, of which we are the MASTER: viewers that the service lets in hear the language's packets.
//!
//! The other door than [`super::egress`] to the same sound, for listeners who already speak KVS. A channel has room
//! for ten; who goes where is `babelcast_domain::channels`' business.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;

use babelcast_domain::counts::Counts;
use babelcast_domain::signaling::CandidatePolicy;
use rustls::ClientConfig;
use tokio_util::task::AbortOnDropHandle;

use super::dub::Packets;
use super::egress::send;
use super::master::{Access, MasterError, MasterEvent, Signaling};

/// A channel that is served. Dropping it ends it at once; [`Channel::close`] ends it politely.
pub struct Channel {
    signaling: Signaling,
    _sender: AbortOnDropHandle<()>,
}

impl Channel {
    /// Opens the signaling socket as MASTER. `access` is asked before each opening: the service ends the socket every
    /// hour and after ten idle minutes, and viewers do not notice.
    ///
    /// # Errors
    /// [`MasterError`], if the first opening fails.
    pub async fn open<F, A>(
        access: F,
        tls: Arc<ClientConfig>,
        policy: CandidatePolicy,
        packets: Packets,
        counts: Arc<Counts>,
    ) -> Result<Self, MasterError>
    where
        F: FnMut() -> A + Send + 'static,
        A: Future<Output = Result<Access, Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let signaling = Signaling::open(access, tls, policy).await?;
        let sender = tokio::spawn(send(packets, signaling.lines.clone(), counts));
        Ok(Channel { signaling, _sender: AbortOnDropHandle::new(sender) })
    }

    /// Who came, who went, and what became of the socket; none when the channel has ended. Up to 64 wait to be read,
    /// then new ones are dropped.
    pub async fn next(&mut self) -> Option<MasterEvent> {
        self.signaling.events.recv().await
    }

    /// Viewers that sound goes to.
    pub fn viewers(&self) -> usize {
        self.signaling.lines.borrow().len()
    }

    /// Ends all calls and the socket so that the other sides know at once.
    pub async fn close(self) {
        self.signaling.close().await;
    }
}
