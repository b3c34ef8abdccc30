//! Hardware probes and the settings that follow from them.
