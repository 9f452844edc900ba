//! The HTTP/2 settings of the relay, in one place.
//!
//! | setting | value | because |
//! |---|---|---|
//! | header list | 16 MiB both sides | at 16 KiB a 20 kB `grpc-message` vanishes or becomes a reset |
//! | connection windows | 2³¹−1 both sides | streams nobody reads must not use up what other calls need; h2 also derives from it how many small frames may lie unread |
//! | stream windows | 64 KiB both sides | bounds what an unread stream holds |
//! | pending accept resets | 10,000 towards the kubelet | a hundred cancels at once are a kubelet's restart, not an attack |
//! | local error resets | 10,000 towards the kubelet, no limit towards the runtime | h2 ends a connection at 1024 frames for calls it has forgotten, over its whole life |
//! | concurrent streams | unlimited towards the kubelet | creates that wait for their vetting must not block lists |
//! | keepalive, BDP pings | none | containerd answers the fourth with GOAWAY `too_many_pings` |
//! | `date` | not added | a relay adds nothing |
//!
//! Each has a test in tests/integration/relay/{settings,messages,methods}.rs that fails with hyper's default.

use hyper::client::conn::http2 as client;
use hyper::server::conn::http2 as server;
use hyper_util::rt::TokioExecutor;

/// Larger than any header list gRPC peers send; a status message of 16 MiB would not fit a message either.
const HEADER_LIST_BYTES: u32 = 16 * 1024 * 1024;
/// The largest window RFC 9113 section 6.9.1 allows.
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;
/// What one call can make the relay hold, each way.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Resets of streams that were not accepted yet; h2 ends the connection at more than this.
const PENDING_ACCEPT_RESETS: usize = 10_000;
/// Resets for what breaks the rules on one call, over a connection's life.
const LOCAL_ERROR_RESETS: usize = 10_000;

/// Towards the kubelet.
pub fn server() -> server::Builder<TokioExecutor> {
    let mut builder = server::Builder::new(TokioExecutor::new());
    builder
        .max_header_list_size(HEADER_LIST_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .max_pending_accept_reset_streams(PENDING_ACCEPT_RESETS)
        .max_local_error_reset_streams(LOCAL_ERROR_RESETS)
        .max_concurrent_streams(None)
        .auto_date_header(false);
    builder
}

/// Towards the runtime.
pub fn client() -> client::Builder<TokioExecutor> {
    let mut builder = client::Builder::new(TokioExecutor::new());
    builder
        .max_header_list_size(HEADER_LIST_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .max_local_error_reset_streams(None);
    builder
}
