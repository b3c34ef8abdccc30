//! A member's life: check the machine, open or make the folder, start the shards, stop them.
