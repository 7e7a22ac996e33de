//! Types and constants, with the names that they have in C.
//!
//! Sizes, offsets and values are those of CANN 8.1 and hold for every release since 5.0. `tools/abi-check` compares them
//! with the headers of a toolkit. Values that only later releases have are marked.

use std::ffi::{c_char, c_int, c_void};
use std::mem::{offset_of, size_of};

/// What nearly every function returns: 0 or the code of an error, see [`crate::CODES`].
pub type aclError = c_int;
/// A context: what a thread does, it does in its current context. A pointer to something of the library.
pub type aclrtContext = *mut c_void;
/// A queue of tasks of a device, which run in order.
pub type aclrtStream = *mut c_void;
/// A point in a stream that others can wait for.
pub type aclrtEvent = *mut c_void;

/// The code of success.
pub const ACL_SUCCESS: aclError = 0;

/// A C type as headers spell it, so that prototypes can be compared with those of a toolkit.
pub trait CType {
    /// Its spelling.
    fn spelling() -> String;
}

macro_rules! spelled {
    ($($ty:ty = $c:literal),* $(,)?) => {
        $(impl CType for $ty {
            fn spelling() -> String {
                $c.to_owned()
            }
        })*
    };
}

spelled! {
    () = "void", c_void = "void", c_char = "char", c_int = "int32_t", u32 = "uint32_t", i64 = "int64_t", u64 = "uint64_t",
    usize = "size_t", f32 = "float",
}

impl<T: CType> CType for *mut T {
    fn spelling() -> String {
        format!("{}*", T::spelling())
    }
}

impl<T: CType> CType for *const T {
    fn spelling() -> String {
        format!("const {}*", T::spelling())
    }
}

/// What the library only hands out by pointer.
macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Debug)]
            pub struct $name {
                _private: [u8; 0],
            }
            impl CType for $name {
                fn spelling() -> String {
                    stringify!($name).to_owned()
                }
            }
        )*
        /// Names of the types that the library only hands out by pointer.
        pub const OPAQUE: &[&str] = &[$(stringify!($name)),*];
    };
}

opaque! {
    /// What a loaded model takes and gives.
    aclmdlDesc;
    /// The buffers of all inputs, or of all outputs, of one run.
    aclmdlDataset;
    /// Address and length of memory of a device that its owner has to free.
    aclDataBuffer;
    /// Type and shape of one tensor.
    aclTensorDesc;
}

/// An enumeration of C: a number, since a newer library may give values that this crate does not know.
macro_rules! enumeration {
    ($($(#[$doc:meta])* $name:ident: $repr:ty { $($(#[$vdoc:meta])* $value:ident = $number:literal,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(transparent)]
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
            pub struct $name(pub $repr);
            impl $name {
                $($(#[$vdoc])* pub const $value: $name = $name($number);)*
            }
            impl CType for $name {
                fn spelling() -> String {
                    stringify!($name).to_owned()
                }
            }
        )*
        /// Name, size in bytes and values of every enumeration.
        pub const ENUMERATIONS: &[Enumeration] = &[
            $(Enumeration {
                name: stringify!($name),
                size: size_of::<$name>(),
                values: &[$((stringify!($value), $number as i64)),*],
            }),*
        ];
    };
}

/// An enumeration, to compare it with a header.
#[derive(Debug, Clone, Copy)]
pub struct Enumeration {
    /// Its name in C.
    pub name: &'static str,
    /// Bytes of a value.
    pub size: usize,
    /// Names and numbers of its values.
    pub values: &'static [(&'static str, i64)],
}

enumeration! {
    /// Type of the elements of a tensor.
    aclDataType: i32 {
        /// Not known.
        ACL_DT_UNDEFINED = -1,
        /// 32 bits of floating point.
        ACL_FLOAT = 0,
        /// IEEE half precision.
        ACL_FLOAT16 = 1,
        /// Signed, 8 bits.
        ACL_INT8 = 2,
        /// Signed, 32 bits.
        ACL_INT32 = 3,
        /// Unsigned, 8 bits.
        ACL_UINT8 = 4,
        /// Signed, 16 bits.
        ACL_INT16 = 6,
        /// Unsigned, 16 bits.
        ACL_UINT16 = 7,
        /// Unsigned, 32 bits.
        ACL_UINT32 = 8,
        /// Signed, 64 bits.
        ACL_INT64 = 9,
        /// Unsigned, 64 bits.
        ACL_UINT64 = 10,
        /// 64 bits of floating point.
        ACL_DOUBLE = 11,
        /// A byte that is 0 or 1.
        ACL_BOOL = 12,
        /// Text.
        ACL_STRING = 13,
        /// Two [`ACL_FLOAT`](Self::ACL_FLOAT).
        ACL_COMPLEX64 = 16,
        /// Two [`ACL_DOUBLE`](Self::ACL_DOUBLE).
        ACL_COMPLEX128 = 17,
        /// The upper half of a float. Not on the 310P.
        ACL_BF16 = 27,
        /// Signed, 4 bits.
        ACL_INT4 = 29,
        /// One bit.
        ACL_UINT1 = 30,
        /// Two [`ACL_FLOAT16`](Self::ACL_FLOAT16).
        ACL_COMPLEX32 = 33,
    }
    /// How the elements of a tensor are laid out.
    aclFormat: i32 {
        /// Not known.
        ACL_FORMAT_UNDEFINED = -1,
        /// Images, channels first.
        ACL_FORMAT_NCHW = 0,
        /// Images, channels last.
        ACL_FORMAT_NHWC = 1,
        /// Row by row, as in ONNX.
        ACL_FORMAT_ND = 2,
        /// Channels in pieces.
        ACL_FORMAT_NC1HWC0 = 3,
        /// Weights of a matrix unit.
        ACL_FORMAT_FRACTAL_Z = 4,
        /// Channels in pieces of four.
        ACL_FORMAT_NC1HWC0_C04 = 12,
        /// Weights of a convolution.
        ACL_FORMAT_HWCN = 16,
        /// Volumes, channels last.
        ACL_FORMAT_NDHWC = 27,
        /// Tiles of a matrix unit.
        ACL_FORMAT_FRACTAL_NZ = 29,
        /// Volumes, channels first.
        ACL_FORMAT_NCDHW = 30,
        /// Volumes, channels in pieces.
        ACL_FORMAT_NDC1HWC0 = 32,
        /// Weights for volumes.
        ACL_FRACTAL_Z_3D = 33,
        /// Rows of channels.
        ACL_FORMAT_NC = 35,
        /// Sequences, channels first.
        ACL_FORMAT_NCL = 47,
    }
    /// From which memory, and in which pages, an allocation comes.
    aclrtMemMallocPolicy: u32 {
        /// Huge pages of 2 MiB if it is larger than 1 MiB and there are some, else normal ones.
        ACL_MEM_MALLOC_HUGE_FIRST = 0,
        /// Huge pages or nothing.
        ACL_MEM_MALLOC_HUGE_ONLY = 1,
        /// Pages of 4 KiB.
        ACL_MEM_MALLOC_NORMAL_ONLY = 2,
    }
    /// Where a copy goes from and to.
    aclrtMemcpyKind: u32 {
        /// Within the host.
        ACL_MEMCPY_HOST_TO_HOST = 0,
        /// To a device.
        ACL_MEMCPY_HOST_TO_DEVICE = 1,
        /// From a device.
        ACL_MEMCPY_DEVICE_TO_HOST = 2,
        /// Within a device or between two.
        ACL_MEMCPY_DEVICE_TO_DEVICE = 3,
    }
    /// Where the program runs.
    aclrtRunMode: u32 {
        /// On a processor of the device itself.
        ACL_DEVICE = 0,
        /// On a host that the device is plugged into.
        ACL_HOST = 1,
    }
    /// A kind of memory of a device.
    aclrtMemAttr: u32 {
        /// What a 310P has.
        ACL_DDR_MEM = 0,
        /// High-bandwidth memory.
        ACL_HBM_MEM = 1,
        /// DDR in huge pages.
        ACL_DDR_MEM_HUGE = 2,
        /// DDR in normal pages.
        ACL_DDR_MEM_NORMAL = 3,
    }
}

/// An event that others wait for, and nothing else. For [`aclrtCreateEventWithFlag`](crate::Api::aclrtCreateEventWithFlag).
pub const ACL_EVENT_SYNC: u32 = 1;
/// An event that notes the time at which it is reached.
pub const ACL_EVENT_TIME_LINE: u32 = 8;

/// Dimensions that [`aclmdlIODims`] has room for.
pub const ACL_MAX_DIM_CNT: usize = 128;
/// Bytes of the name in [`aclmdlIODims`], with its final zero.
pub const ACL_MAX_TENSOR_NAME_LEN: usize = 128;
/// Batch sizes that [`aclmdlBatch`] has room for.
pub const ACL_MAX_BATCH_NUM: usize = 128;

/// Name of the input that a model with gears has behind its own: the chosen gear. Its buffer must be there; the library
/// writes it.
pub const ACL_DYNAMIC_TENSOR_NAME: &str = "ascend_mbatch_shape_data";
/// Name of the input of image preprocessing that is set when a model runs.
pub const ACL_DYNAMIC_AIPP_NAME: &str = "ascend_dynamic_aipp_data";

/// Numbers behind `#define`, to compare them with a header.
pub const DEFINES: &[(&str, i64)] = &[
    ("ACL_EVENT_SYNC", ACL_EVENT_SYNC as i64),
    ("ACL_EVENT_TIME_LINE", ACL_EVENT_TIME_LINE as i64),
    ("ACL_MAX_DIM_CNT", ACL_MAX_DIM_CNT as i64),
    ("ACL_MAX_TENSOR_NAME_LEN", ACL_MAX_TENSOR_NAME_LEN as i64),
    ("ACL_MAX_BATCH_NUM", ACL_MAX_BATCH_NUM as i64),
];

/// Texts behind `#define`, to compare them with a header.
pub const TEXTS: &[(&str, &str)] = &[
    ("ACL_DYNAMIC_TENSOR_NAME", ACL_DYNAMIC_TENSOR_NAME),
    ("ACL_DYNAMIC_AIPP_NAME", ACL_DYNAMIC_AIPP_NAME),
];

/// Name and dimensions of an input or output.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct aclmdlIODims {
    /// Its name, ended by a zero. Of a name that is longer than 127 bytes there is one here that the library made up;
    /// [`aclmdlGetTensorRealName`](crate::Api::aclmdlGetTensorRealName) gives the real one.
    pub name: [c_char; ACL_MAX_TENSOR_NAME_LEN],
    /// How many dimensions there are.
    pub dimCount: usize,
    /// The dimensions; -1 where a gear decides.
    pub dims: [i64; ACL_MAX_DIM_CNT],
}

/// The batch sizes that a model can run with.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct aclmdlBatch {
    /// How many there are; 0 where the model has but one.
    pub batchCount: usize,
    /// The sizes, in samples.
    pub batch: [u64; ACL_MAX_BATCH_NUM],
}

impl Default for aclmdlIODims {
    fn default() -> aclmdlIODims {
        aclmdlIODims { name: [0; ACL_MAX_TENSOR_NAME_LEN], dimCount: 0, dims: [0; ACL_MAX_DIM_CNT] }
    }
}

impl Default for aclmdlBatch {
    fn default() -> aclmdlBatch {
        aclmdlBatch { batchCount: 0, batch: [0; ACL_MAX_BATCH_NUM] }
    }
}

spelled! { aclmdlIODims = "aclmdlIODims", aclmdlBatch = "aclmdlBatch" }

/// A struct, to compare it with a header.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Its name in C.
    pub name: &'static str,
    /// Its size in bytes.
    pub size: usize,
    /// Its fields, in order.
    pub fields: &'static [Field],
}

/// A field of a struct.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its type in C, with the length of an array.
    pub ty: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Bytes before it.
    pub offset: usize,
    /// Its own bytes.
    pub size: usize,
}

/// A [`Layout`], from the struct itself.
macro_rules! layout {
    ($name:ident { $($field:ident: $c:literal = $ty:ty),* $(,)? }) => {
        Layout {
            name: stringify!($name),
            size: size_of::<$name>(),
            fields: &[$(Field {
                ty: $c,
                name: stringify!($field),
                offset: offset_of!($name, $field),
                size: size_of::<$ty>(),
            }),*],
        }
    };
}

/// Every struct whose fields are read or written here.
pub const LAYOUTS: &[Layout] = &[
    layout!(aclmdlIODims {
        name: "char[128]" = [c_char; ACL_MAX_TENSOR_NAME_LEN],
        dimCount: "size_t" = usize,
        dims: "int64_t[128]" = [i64; ACL_MAX_DIM_CNT],
    }),
    layout!(aclmdlBatch {
        batchCount: "size_t" = usize,
        batch: "uint64_t[128]" = [u64; ACL_MAX_BATCH_NUM],
    }),
];

const _: () = {
    assert!(size_of::<aclmdlIODims>() == 1160);
    assert!(offset_of!(aclmdlIODims, dimCount) == 128);
    assert!(offset_of!(aclmdlIODims, dims) == 136);
    assert!(size_of::<aclmdlBatch>() == 1032);
    assert!(offset_of!(aclmdlBatch, batch) == 8);
    assert!(size_of::<aclDataType>() == size_of::<c_int>());
    assert!(size_of::<aclrtMemcpyKind>() == size_of::<c_int>());
};

impl aclDataType {
    /// Bytes of one element; none for text and for types of less than a byte.
    #[must_use]
    pub fn bytes(self) -> Option<usize> {
        Some(match self {
            Self::ACL_INT8 | Self::ACL_UINT8 | Self::ACL_BOOL => 1,
            Self::ACL_FLOAT16 | Self::ACL_INT16 | Self::ACL_UINT16 | Self::ACL_BF16 => 2,
            Self::ACL_FLOAT | Self::ACL_INT32 | Self::ACL_UINT32 | Self::ACL_COMPLEX32 => 4,
            Self::ACL_INT64 | Self::ACL_UINT64 | Self::ACL_DOUBLE | Self::ACL_COMPLEX64 => 8,
            Self::ACL_COMPLEX128 => 16,
            _ => return None,
        })
    }
}
