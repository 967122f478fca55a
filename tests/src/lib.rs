//! The launcher and the helpers of whole-binary tests.
