//! Are all parents here? Four bytes per span of an open trace answer it.
