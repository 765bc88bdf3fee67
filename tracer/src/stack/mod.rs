//! User stacks: from a copied stack to frames with function, file and line, and the frame to blame.
