//! The log as a whole.

use std::{collections::HashSet};

use mainstem_env::Env;
use mainstem_record::PartitionId;
use tokio::sync::mpsc;

use crate::{error::LogError, event::{LogEvent, ShardHealth}, options::LogOptions, partition::Partition, spec::PartitionSpec};

/// The log of a node. Cheap to clone.
#[derive(Clone)]
pub struct Log;

#[allow(unused_variables, missing_docs)]
impl Log {
    pub async fn start(env: Env, options: LogOptions, registry: &prometheus::Registry) -> Result<(Self, mpsc::Receiver<LogEvent>), LogError> { unimplemented!() }
    pub async fn open_partition(&self, spec: PartitionSpec) -> Result<Partition, LogError> { unimplemented!() }
    pub fn partition(&self, id: PartitionId) -> Option<Partition> { unimplemented!() }
    pub fn partitions(&self) -> Vec<Partition> { unimplemented!() }
    pub async fn remove_partition(&self, id: PartitionId) -> Result<(), LogError> { unimplemented!() }
    pub async fn remove_unknown(&self, known: &HashSet<PartitionId>) -> Result<usize, LogError> { unimplemented!() }
    pub fn health(&self) -> Vec<ShardHealth> { unimplemented!() }
    pub async fn close(&self) -> Result<(), LogError> { unimplemented!() }
}
