//! What the runtime and the agent say to each other.
