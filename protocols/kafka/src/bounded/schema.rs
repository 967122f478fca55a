//! The shapes of the requests that we serve, as far as a walker needs them to find every length.
//!
//! Field order, types and versions are those of Kafka's message definitions (4.1). Only what has a
//! length matters, so nullability, names and defaults are left to the codec. The table is checked
//! against the codec by a round trip of generated requests, see the tests of [`super`].

/// A type that holds no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    /// BOOLEAN, one byte.
    Bool,
    /// INT8.
    I8,
    /// INT16.
    I16,
    /// INT32.
    I32,
    /// INT64.
    I64,
    /// UUID, 16 bytes.
    Uuid,
    /// STRING or COMPACT_STRING, nullable or not.
    Str,
    /// BYTES, COMPACT_BYTES or RECORDS, nullable or not.
    Bytes,
}

/// The type of a field.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Type {
    /// One value.
    One(Scalar),
    /// An array of values, nullable or not.
    Many(Scalar),
    /// An array of structs, nullable or not.
    Structs(&'static Struct),
    /// One struct. Only tagged fields have this type.
    Nested(&'static Struct),
}

/// A field and the versions that have it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    /// The first version.
    pub(crate) min: i16,
    /// The last version.
    pub(crate) max: i16,
    /// What it holds.
    pub(crate) kind: Type,
}

/// A tagged field that the codec knows; others are skipped by their size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tag {
    /// Its number.
    pub(crate) tag: u32,
    /// The first version that has it.
    pub(crate) min: i16,
    /// What it holds.
    pub(crate) kind: Type,
}

/// A struct: its fields in order, then, in flexible versions, its tagged fields.
#[derive(Debug)]
pub(crate) struct Struct {
    /// In the order of the encoding.
    pub(crate) fields: &'static [Field],
    /// Those that the codec knows.
    pub(crate) tags: &'static [Tag],
}

use Scalar::{Bool, Bytes, I8, I16, I32, I64, Str, Uuid};
use Type::{Many, Nested, One, Structs};

const fn all(kind: Type) -> Field {
    between(0, i16::MAX, kind)
}

const fn from(min: i16, kind: Type) -> Field {
    between(min, i16::MAX, kind)
}

const fn until(max: i16, kind: Type) -> Field {
    between(0, max, kind)
}

const fn between(min: i16, max: i16, kind: Type) -> Field {
    Field { min, max, kind }
}

const fn plain(fields: &'static [Field]) -> Struct {
    Struct { fields, tags: &[] }
}

pub(crate) static API_VERSIONS: Struct = plain(&[from(3, One(Str)), from(3, One(Str))]);

static METADATA_TOPIC: Struct = plain(&[from(10, One(Uuid)), all(One(Str))]);
pub(crate) static METADATA: Struct = plain(&[
    all(Structs(&METADATA_TOPIC)),
    from(4, One(Bool)),
    between(8, 10, One(Bool)),
    from(8, One(Bool)),
]);

static PRODUCE_PARTITION: Struct = plain(&[all(One(I32)), all(One(Bytes))]);
static PRODUCE_TOPIC: Struct = plain(&[
    until(12, One(Str)),
    from(13, One(Uuid)),
    all(Structs(&PRODUCE_PARTITION)),
]);
pub(crate) static PRODUCE: Struct = plain(&[
    all(One(Str)),
    all(One(I16)),
    all(One(I32)),
    all(Structs(&PRODUCE_TOPIC)),
]);

static FETCH_REPLICA: Struct = plain(&[from(15, One(I32)), from(15, One(I64))]);
static FETCH_PARTITION: Struct = Struct {
    fields: &[
        all(One(I32)),
        from(9, One(I32)),
        all(One(I64)),
        from(12, One(I32)),
        from(5, One(I64)),
        all(One(I32)),
    ],
    tags: &[
        Tag {
            tag: 0,
            min: 17,
            kind: One(Uuid),
        },
        Tag {
            tag: 1,
            min: 18,
            kind: One(I64),
        },
    ],
};
static FETCH_TOPIC: Struct = plain(&[
    until(12, One(Str)),
    from(13, One(Uuid)),
    all(Structs(&FETCH_PARTITION)),
]);
static FETCH_FORGOTTEN: Struct = plain(&[
    between(7, 12, One(Str)),
    from(13, One(Uuid)),
    from(7, Many(I32)),
]);
pub(crate) static FETCH: Struct = Struct {
    fields: &[
        until(14, One(I32)),
        all(One(I32)),
        all(One(I32)),
        all(One(I32)),
        all(One(I8)),
        from(7, One(I32)),
        from(7, One(I32)),
        all(Structs(&FETCH_TOPIC)),
        from(7, Structs(&FETCH_FORGOTTEN)),
        from(11, One(Str)),
    ],
    tags: &[
        Tag {
            tag: 0,
            min: 12,
            kind: One(Str),
        },
        Tag {
            tag: 1,
            min: 15,
            kind: Nested(&FETCH_REPLICA),
        },
    ],
};

static LIST_OFFSETS_PARTITION: Struct = plain(&[all(One(I32)), from(4, One(I32)), all(One(I64))]);
static LIST_OFFSETS_TOPIC: Struct = plain(&[all(One(Str)), all(Structs(&LIST_OFFSETS_PARTITION))]);
pub(crate) static LIST_OFFSETS: Struct = plain(&[
    all(One(I32)),
    from(2, One(I8)),
    all(Structs(&LIST_OFFSETS_TOPIC)),
    from(10, One(I32)),
]);

pub(crate) static FIND_COORDINATOR: Struct =
    plain(&[until(3, One(Str)), from(1, One(I8)), from(4, Many(Str))]);

static JOIN_GROUP_PROTOCOL: Struct = plain(&[all(One(Str)), all(One(Bytes))]);
pub(crate) static JOIN_GROUP: Struct = plain(&[
    all(One(Str)),
    all(One(I32)),
    from(1, One(I32)),
    all(One(Str)),
    from(5, One(Str)),
    all(One(Str)),
    all(Structs(&JOIN_GROUP_PROTOCOL)),
    from(8, One(Str)),
]);

static SYNC_GROUP_ASSIGNMENT: Struct = plain(&[all(One(Str)), all(One(Bytes))]);
pub(crate) static SYNC_GROUP: Struct = plain(&[
    all(One(Str)),
    all(One(I32)),
    all(One(Str)),
    from(3, One(Str)),
    from(5, One(Str)),
    from(5, One(Str)),
    all(Structs(&SYNC_GROUP_ASSIGNMENT)),
]);

pub(crate) static HEARTBEAT: Struct = plain(&[
    all(One(Str)),
    all(One(I32)),
    all(One(Str)),
    from(3, One(Str)),
]);

static LEAVE_GROUP_MEMBER: Struct =
    plain(&[from(3, One(Str)), from(3, One(Str)), from(5, One(Str))]);
pub(crate) static LEAVE_GROUP: Struct = plain(&[
    all(One(Str)),
    until(2, One(Str)),
    from(3, Structs(&LEAVE_GROUP_MEMBER)),
]);

static OFFSET_COMMIT_PARTITION: Struct = plain(&[
    all(One(I32)),
    all(One(I64)),
    from(6, One(I32)),
    all(One(Str)),
]);
static OFFSET_COMMIT_TOPIC: Struct =
    plain(&[all(One(Str)), all(Structs(&OFFSET_COMMIT_PARTITION))]);
pub(crate) static OFFSET_COMMIT: Struct = plain(&[
    all(One(Str)),
    all(One(I32)),
    all(One(Str)),
    from(7, One(Str)),
    until(4, One(I64)),
    all(Structs(&OFFSET_COMMIT_TOPIC)),
]);

static OFFSET_FETCH_TOPIC: Struct = plain(&[all(One(Str)), all(Many(I32))]);
static OFFSET_FETCH_GROUP: Struct = plain(&[
    all(One(Str)),
    from(9, One(Str)),
    from(9, One(I32)),
    all(Structs(&OFFSET_FETCH_TOPIC)),
]);
pub(crate) static OFFSET_FETCH: Struct = plain(&[
    until(7, One(Str)),
    until(7, Structs(&OFFSET_FETCH_TOPIC)),
    from(8, Structs(&OFFSET_FETCH_GROUP)),
    from(7, One(Bool)),
]);

pub(crate) static LIST_GROUPS: Struct = plain(&[from(4, Many(Str)), from(5, Many(Str))]);

pub(crate) static DESCRIBE_GROUPS: Struct = plain(&[all(Many(Str)), from(3, One(Bool))]);

pub(crate) static DELETE_GROUPS: Struct = plain(&[all(Many(Str))]);

static OFFSET_DELETE_PARTITION: Struct = plain(&[all(One(I32))]);
static OFFSET_DELETE_TOPIC: Struct =
    plain(&[all(One(Str)), all(Structs(&OFFSET_DELETE_PARTITION))]);
pub(crate) static OFFSET_DELETE: Struct =
    plain(&[all(One(Str)), all(Structs(&OFFSET_DELETE_TOPIC))]);

static CREATE_TOPICS_ASSIGNMENT: Struct = plain(&[all(One(I32)), all(Many(I32))]);
static CREATE_TOPICS_CONFIG: Struct = plain(&[all(One(Str)), all(One(Str))]);
static CREATE_TOPICS_TOPIC: Struct = plain(&[
    all(One(Str)),
    all(One(I32)),
    all(One(I16)),
    all(Structs(&CREATE_TOPICS_ASSIGNMENT)),
    all(Structs(&CREATE_TOPICS_CONFIG)),
]);
pub(crate) static CREATE_TOPICS: Struct = plain(&[
    all(Structs(&CREATE_TOPICS_TOPIC)),
    all(One(I32)),
    all(One(Bool)),
]);

static DELETE_TOPICS_TOPIC: Struct = plain(&[all(One(Str)), all(One(Uuid))]);
pub(crate) static DELETE_TOPICS: Struct = plain(&[
    from(6, Structs(&DELETE_TOPICS_TOPIC)),
    until(5, Many(Str)),
    all(One(I32)),
]);

static CREATE_PARTITIONS_ASSIGNMENT: Struct = plain(&[all(Many(I32))]);
static CREATE_PARTITIONS_TOPIC: Struct = plain(&[
    all(One(Str)),
    all(One(I32)),
    all(Structs(&CREATE_PARTITIONS_ASSIGNMENT)),
]);
pub(crate) static CREATE_PARTITIONS: Struct = plain(&[
    all(Structs(&CREATE_PARTITIONS_TOPIC)),
    all(One(I32)),
    all(One(Bool)),
]);

static DELETE_RECORDS_PARTITION: Struct = plain(&[all(One(I32)), all(One(I64))]);
static DELETE_RECORDS_TOPIC: Struct =
    plain(&[all(One(Str)), all(Structs(&DELETE_RECORDS_PARTITION))]);
pub(crate) static DELETE_RECORDS: Struct =
    plain(&[all(Structs(&DELETE_RECORDS_TOPIC)), all(One(I32))]);

static DESCRIBE_CONFIGS_RESOURCE: Struct = plain(&[all(One(I8)), all(One(Str)), all(Many(Str))]);
pub(crate) static DESCRIBE_CONFIGS: Struct = plain(&[
    all(Structs(&DESCRIBE_CONFIGS_RESOURCE)),
    all(One(Bool)),
    from(3, One(Bool)),
]);

static INCREMENTAL_CONFIG: Struct = plain(&[all(One(Str)), all(One(I8)), all(One(Str))]);
static INCREMENTAL_RESOURCE: Struct = plain(&[
    all(One(I8)),
    all(One(Str)),
    all(Structs(&INCREMENTAL_CONFIG)),
]);
pub(crate) static INCREMENTAL_ALTER_CONFIGS: Struct =
    plain(&[all(Structs(&INCREMENTAL_RESOURCE)), all(One(Bool))]);

static ALTER_CONFIG: Struct = plain(&[all(One(Str)), all(One(Str))]);
static ALTER_RESOURCE: Struct = plain(&[all(One(I8)), all(One(Str)), all(Structs(&ALTER_CONFIG))]);
pub(crate) static ALTER_CONFIGS: Struct = plain(&[all(Structs(&ALTER_RESOURCE)), all(One(Bool))]);

pub(crate) static DESCRIBE_CLUSTER: Struct =
    plain(&[all(One(Bool)), from(1, One(I8)), from(2, One(Bool))]);

pub(crate) static INIT_PRODUCER_ID: Struct = plain(&[
    all(One(Str)),
    all(One(I32)),
    from(3, One(I64)),
    from(3, One(I16)),
]);

static LEADER_EPOCH_PARTITION: Struct = plain(&[all(One(I32)), all(One(I32)), all(One(I32))]);
static LEADER_EPOCH_TOPIC: Struct = plain(&[all(One(Str)), all(Structs(&LEADER_EPOCH_PARTITION))]);
pub(crate) static OFFSET_FOR_LEADER_EPOCH: Struct =
    plain(&[from(3, One(I32)), all(Structs(&LEADER_EPOCH_TOPIC))]);
