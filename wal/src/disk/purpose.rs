//! What each operation of the log is for: said in errors, and counted by the crash tests, which stop at every one.

macro_rules! purposes {
    ($($(#[$doc:meta])* $name:ident: $text:literal,)*) => {
        /// Why the log asks for an operation. No operation goes to a disk without one, and each variant stands for the
        /// operations of one place in the code: a test that has stopped at every variant has stopped at every such place.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Purpose {
            $($(#[$doc])* $name,)*
        }

        impl Purpose {
            /// All of them.
            pub const ALL: &'static [Purpose] = &[$(Purpose::$name,)*];

            /// Its words in messages.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Purpose::$name => $text,)*
                }
            }
        }
    };
}

purposes! {
    /// A batch of records, synced. What it covers is acknowledged afterwards.
    Batch: "a batch of records",
    /// The first unit of a segment, synced: the records that are carried over.
    SegmentStart: "a segment's start",
    /// The block that proves the last batch, after some quiet or at a clean stop.
    Closing: "a closing block",
    /// The file of the next segment.
    NextCreate: "making the next segment",
    /// Zeros into the next segment.
    NextFill: "filling the next segment",
    /// Makes the zeros durable.
    NextFillSync: "syncing the next segment",
    /// A released segment becomes the next one: its name is taken away.
    NextTake: "taking a released segment",
    /// Makes that durable.
    NextTakeSync: "syncing the directory, a released segment was taken",
    /// The header of the next segment, synced.
    NextHeader: "the next segment's header",
    /// The next segment gets the name under which recovery sees it.
    NextPublish: "naming the next segment",
    /// Makes the name durable.
    NextPublishSync: "syncing the directory, the next segment was named",
    /// A released segment too many is removed.
    Drop: "removing a released segment",
    /// Makes that durable.
    DropSync: "syncing the directory, a released segment was removed",
    /// A next segment for which there was no space is removed.
    Discard: "removing a segment that found no space",
    /// Makes that durable.
    DiscardSync: "syncing the directory, a segment without space was removed",
    /// Recovery removes a file that was being prepared.
    UnfinishedRemove: "removing an unfinished segment",
    /// Makes that durable.
    UnfinishedRemoveSync: "syncing the directory, an unfinished segment was removed",
    /// Recovery removes a segment that was named and never begun.
    UnstartedRemove: "removing a segment that was never begun",
    /// Makes that durable.
    UnstartedRemoveSync: "syncing the directory, a segment that was never begun was removed",
    /// Recovery clears a segment whose start was torn.
    UnstartedClear: "clearing a segment whose start was torn",
    /// Makes that durable.
    UnstartedClearSync: "syncing a segment whose start was torn",
    /// Recovery makes what it has read durable.
    ReplaySync: "syncing what was replayed",
    /// The same for the names of the segments.
    ReplaySyncDirectory: "syncing the directory, before what was replayed is believed",
    /// Recovery clears the pieces of a batch that was never acknowledged.
    TornTailClear: "clearing a torn tail",
    /// Makes that durable.
    TornTailClearSync: "syncing a cleared tail",
    /// A log that can't be read is given up, with all of its files.
    LostRemove: "removing a file of a log that is given up",
    /// Makes that durable.
    LostRemoveSync: "syncing the directory, a log was given up",
    /// Recovery proves the last batch.
    RecoveryClosing: "a closing block of recovery",
}

impl core::fmt::Display for Purpose {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(self.name())
    }
}
