//! What kinds of CMKs there are, in the words of AWS KMS.

use serde::{Deserialize, Serialize};

use crate::crypto::pair::PairSpec;

/// The kind of a CMK. All of them encrypt and decrypt (`KeyUsage` is `ENCRYPT_DECRYPT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum KeySpec {
    /// 256 bits, for AES-256-GCM.
    #[default]
    #[serde(rename = "SYMMETRIC_DEFAULT")]
    Symmetric,
    /// An RSA key pair of 2048 bits.
    #[serde(rename = "RSA_2048")]
    Rsa2048,
    /// An RSA key pair of 3072 bits.
    #[serde(rename = "RSA_3072")]
    Rsa3072,
    /// An RSA key pair of 4096 bits.
    #[serde(rename = "RSA_4096")]
    Rsa4096,
}

impl KeySpec {
    /// AWS's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Symmetric => "SYMMETRIC_DEFAULT",
            Self::Rsa2048 => "RSA_2048",
            Self::Rsa3072 => "RSA_3072",
            Self::Rsa4096 => "RSA_4096",
        }
    }

    /// The kind with this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Symmetric, Self::Rsa2048, Self::Rsa3072, Self::Rsa4096].into_iter().find(|spec| spec.name() == name)
    }

    /// Whether it is a key pair.
    pub fn is_asymmetric(self) -> bool {
        self != Self::Symmetric
    }

    /// The key pair that it is.
    pub(super) fn pair(self) -> Option<PairSpec> {
        match self {
            Self::Symmetric => None,
            Self::Rsa2048 => Some(PairSpec::Rsa2048),
            Self::Rsa3072 => Some(PairSpec::Rsa3072),
            Self::Rsa4096 => Some(PairSpec::Rsa4096),
        }
    }

    /// The encryption algorithms, by AWS's names.
    pub fn algorithms(self) -> &'static [&'static str] {
        if self.is_asymmetric() { &["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"] } else { &["SYMMETRIC_DEFAULT"] }
    }
}
