//! The maps of a loaded object.

use std::{collections::BTreeMap, os::fd::AsFd as _};

use aya::{
    Ebpf,
    maps::{Map, MapData, RingBuf},
};

use super::{ProbeError, Probes, Table};
use crate::kernel::attach::chain;

/// They stay in `ebpf`: programs that are loaded later refer to their descriptors.
pub struct Tables<'a> {
    pub ebpf: &'a Ebpf,
    pub capacities: &'a mut BTreeMap<&'static str, u64>,
}

impl<'a> Tables<'a> {
    /// One map.
    pub fn data(&self, name: &'static str) -> Result<&'a MapData, ProbeError> {
        match self.ebpf.map(name) {
            Some(
                Map::Array(data)
                | Map::HashMap(data)
                | Map::LruHashMap(data)
                | Map::PerCpuArray(data),
            ) => Ok(data),
            Some(other) => Err(ProbeError::Load(format!(
                "unexpected kind of map: {other:?}"
            ))),
            None => Err(ProbeError::Load(format!("the object has no map {name}"))),
        }
    }

    /// One map, whose layout must be that of `K` and `V`.
    pub fn table<K, V>(&mut self, name: &'static str) -> Result<Table<K, V>, ProbeError>
    where
        K: bytemuck::NoUninit + bytemuck::AnyBitPattern,
        V: bytemuck::NoUninit + bytemuck::AnyBitPattern,
    {
        let data = self.data(name)?;
        let failed = |e: &dyn std::fmt::Display| ProbeError::Load(format!("map {name}: {e}"));
        let info = data.info().map_err(|e| failed(&e))?;
        if (info.key_size() as usize, info.value_size() as usize)
            != (size_of::<K>(), size_of::<V>())
        {
            return Err(failed(
                &"its layout is not the one this program was built with",
            ));
        }
        self.capacities.insert(name, u64::from(info.max_entries()));
        Table::new(data.fd().as_fd()).map_err(|e| failed(&e))
    }
}

impl Probes {
    /// The ring of stack copies, for its only reader.
    ///
    /// # Errors
    /// When it is asked for again, or can't be mapped.
    pub fn stack_copies(&mut self) -> Result<RingBuf<MapData>, ProbeError> {
        self.ring("STACKS")
    }

    /// The ring of header blocks, for its only reader.
    ///
    /// # Errors
    /// As [`Probes::stack_copies`].
    pub(crate) fn header_blocks(&mut self) -> Result<RingBuf<MapData>, ProbeError> {
        self.ring("BLOCKS")
    }

    /// The ring of first messages, for its only reader.
    ///
    /// # Errors
    /// As [`Probes::stack_copies`].
    pub(crate) fn greetings(&mut self) -> Result<RingBuf<MapData>, ProbeError> {
        self.ring("GREETINGS")
    }

    /// The ring of answers to DNS queries, for its only reader.
    ///
    /// # Errors
    /// As [`Probes::stack_copies`].
    pub(crate) fn answers(&mut self) -> Result<RingBuf<MapData>, ProbeError> {
        self.ring("ANSWERS")
    }

    fn ring(&mut self, name: &str) -> Result<RingBuf<MapData>, ProbeError> {
        let ring = self.ebpf.take_map(name);
        let ring = ring.ok_or_else(|| ProbeError::Load(format!("no map {name} is left")))?;
        RingBuf::try_from(ring).map_err(|e| ProbeError::Load(chain(&e)))
    }
}
