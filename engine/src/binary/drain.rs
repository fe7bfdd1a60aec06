//! DRAIN, from an operator: a command between nodes, and so signed.

use std::rc::Rc;

use reel_node::frame_server::FrameConn;
use reel_proto::{
    command,
    limits::PEER_REQUEST_BYTES_MAX,
    peer::{DrainReply, OperatorDrain},
    refusal::Refusal,
    sign,
};

use super::{Stop, body};
use crate::{metrics::Serve, store::DrainError, thread::Thread};

/// Most bytes of the envelope.
const BODY_BYTES_MAX: usize = PEER_REQUEST_BYTES_MAX as usize + sign::OVERHEAD;

pub(super) async fn drain(thread: &Rc<Thread>, conn: &mut FrameConn) -> Result<(), Stop> {
    let peer = conn.peer().ip();
    let envelope = body(conn, BODY_BYTES_MAX, |bytes| Ok::<_, DrainError>(bytes.to_vec())).await?;
    let payload = thread.shared.envelopes.open(command::DRAIN, &envelope, peer);
    let payload = payload.map_err(|error| {
        tracing::warn!(%peer, %error, "a node command was refused");
        Stop::refused(Refusal::NotTrusted, error.to_string())
    })?;
    let OperatorDrain { host, on } = OperatorDrain::decode(payload).map_err(Stop::malformed)?;
    let shared = &thread.shared;
    if host != shared.names.host {
        return Err(Stop::refused(Refusal::NotTrusted, format!("this node is not {host}")));
    }
    conn.flush().await?;
    let set =
        thread.in_time(shared.drained.set(shared.stores.as_ref(), on), DrainError::Late).await;
    set.map_err(|error| {
        tracing::error!(%error, on, "an operator's drain was not done");
        Stop::failed(Refusal::Failed, error.to_string())
    })?;
    // Without this one.
    let under_way = shared.registry.level(Serve::IN_FLIGHT) - 1;
    let reply = DrainReply { under_way: u32::try_from(under_way).unwrap_or(0) };
    conn.reply_with(|out| reply.encode(out)).await?;
    Ok(())
}
