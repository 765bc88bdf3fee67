//! What Node.js's HTTP client knows of its connections.
//!
//! lib/_http_client.js and lib/_http_agent.js: the object of a connection has the request that it
//! serves (`_httpMessage`, null while it waits in its agent's pool), the request has its response
//! (`res`), and a response knows whether all of it has arrived (`complete`). It lets go of the
//! connection when somebody has read it to its end.

use std::collections::HashMap;

use super::{
    handles,
    heap::{Heap, Object, object},
    objects::{Objects, Value},
};
use crate::model::PoolState;

/// `BaseObject::persistent_handle_` of Node.js, behind the pointer to its functions: the address of
/// the place that has the object in JavaScript.
const PERSISTENT: u64 = 8;

/// The state of each client connection of a loop, by descriptor. Those of other clients, and what
/// is not understood, are left out.
#[must_use]
pub fn states(heap: Heap<'_>, event_loop: u64) -> HashMap<i32, PoolState> {
    let mut objects = Objects::new(heap);
    handles::sockets(heap.memory, event_loop)
        .into_iter()
        .filter_map(|handle| {
            let place = heap.memory.word(handle.data.wrapping_add(PERSISTENT))?;
            let wrap = object(heap.memory.word(place)?)?;
            Some((handle.fd, state(&mut objects, wrap)?))
        })
        .collect()
}

/// The state of a connection, by the object of its handle.
fn state(objects: &mut Objects<'_>, wrap: Object) -> Option<PoolState> {
    let Value::Object(socket) = objects.get(wrap, "owner_symbol")? else {
        return None;
    };
    let request = match objects.get(socket, "_httpMessage")? {
        Value::Nothing => return in_pool(objects, socket),
        Value::Object(request) => request,
        _ => return None,
    };
    // They must know each other.
    let of_request = match objects.get(request, "kSocket") {
        Some(known) => known,
        None => objects.get(request, "socket")?,
    };
    if of_request != Value::Object(socket) {
        return None;
    }
    let response = match objects.get(request, "res")? {
        Value::Nothing => return Some(PoolState::InFlight),
        Value::Object(response) => response,
        _ => return None,
    };
    if objects.get(response, "upgrade") == Some(Value::Bool(true)) {
        return None;
    }
    let complete = match objects.get(response, "complete")? {
        Value::Bool(complete) => complete,
        _ => return None,
    };
    if complete {
        // All of it is here, and stays: nobody takes it.
        return Some(PoolState::Response);
    }
    // What arrives may be thrown away at once, which can't be told from nobody reading it.
    listens(objects, response, &["data", "readable"])?.then_some(PoolState::Reading)
}

/// A connection without a request waits in its agent's pool if the agent still listens to it: it
/// lets go of what speaks another protocol from now on.
fn in_pool(objects: &mut Objects<'_>, socket: Object) -> Option<PoolState> {
    listens(objects, socket, &["free"])?.then_some(PoolState::Idle)
}

/// Whether somebody listens to one of these events of an object.
fn listens(objects: &mut Objects<'_>, of: Object, events: &[&'static str]) -> Option<bool> {
    let Value::Object(listeners) = objects.get(of, "_events")? else {
        return None;
    };
    let mut all = events.iter();
    Some(all.any(|name| matches!(objects.get(listeners, name), Some(Value::Object(_)))))
}
