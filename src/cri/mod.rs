//! What crivet knows of the CRI: the method table, wire types, the runtime client, and the replies.
