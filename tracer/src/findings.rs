//! From judgements about cohorts to the findings users read: identity, merging of instances,
//! resources, baseline comparison. Pure.
