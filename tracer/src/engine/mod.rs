//! The leak engine: from what sweeps saw to judgements. Pure: no clock, no I/O, no kernel.
