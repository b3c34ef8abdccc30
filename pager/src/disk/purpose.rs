//! What each request to the page file is for: said in errors, and counted by the crash tests, which stop at every one.

macro_rules! purposes {
    ($($(#[$doc:meta])* $name:ident: $text:literal,)*) => {
        /// Why the pager makes a request. None goes to a disk without one, and each variant stands for the requests of one
        /// place in the code: a test that has stopped at every variant has stopped at every such place.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum IoPurpose {
            $($(#[$doc])* $name,)*
        }

        impl IoPurpose {
            /// All of them.
            pub const ALL: &'static [IoPurpose] = &[$(IoPurpose::$name,)*];

            /// Its words in messages.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(IoPurpose::$name => $text,)*
                }
            }
        }
    };
}

purposes! {
    /// The first length of a new file.
    CreateLength: "the first length of a new file",
    /// The header of a new file.
    CreateHeader: "the header of a new file",
    /// The free maps of a new file.
    CreateMap: "a free map of a new file",
    /// Makes what a new file holds durable, before its meta.
    CreateSync: "syncing a new file",
    /// The first meta of a new file.
    CreateMeta: "the first meta page",
    /// Makes the first meta durable.
    CreateMetaSync: "syncing the first meta page",
    /// The header and both metas, at open.
    OpenHead: "header and meta pages",
    /// The meta that counts is written again at open: it may be in the page cache alone.
    OpenMeta: "writing the meta page again before it is believed",
    /// Makes that durable.
    OpenMetaSync: "syncing the meta page before it is believed",
    /// Tree pages and large values of a checkpoint.
    Nodes: "pages of a checkpoint",
    /// Leaves of a state that is not published yet, and too large to be all in memory.
    Spill: "pages of a large change",
    /// More space for a checkpoint.
    Growth: "more space for a checkpoint",
    /// A page of which a checkpoint writes a changed leaf, and that has left memory.
    ReadBase: "a page below a change",
    /// The free maps of a region, before it is used for the first time.
    ReadMap: "the free map of a region",
    /// The same, only to know how much is free. That it can't be read is no failure: nothing needs it yet.
    LookMap: "a look at the free map of a region",
    /// A free map that a checkpoint has changed.
    Map: "a free map",
    /// Makes pages and free maps durable, before the meta may name them.
    NodesSync: "syncing the pages of a checkpoint",
    /// The meta of a checkpoint, in the place of the older one.
    Meta: "a meta page",
    /// Makes the meta durable: the checkpoint is done.
    MetaSync: "syncing a meta page",
    /// The end of the file goes, which neither meta names.
    Cut: "cutting the end of the file off",
    /// A page that a tree needs and that is not in memory.
    ReadPage: "a page that is needed",
    /// The check of a whole file, and other tools.
    Inspect: "checking the file",
}

impl core::fmt::Display for IoPurpose {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(self.name())
    }
}
