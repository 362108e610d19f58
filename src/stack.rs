//! Floor 6: a Spec becomes a View; the one public door to content.
