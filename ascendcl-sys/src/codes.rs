//! The codes of errors: their names in the headers, and what they mean to a user.
#![expect(clippy::unreadable_literal, reason = "codes, written as AscendCL prints them")]

/// A code of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// The number.
    pub code: i32,
    /// Its name in C.
    pub name: &'static str,
    /// What is wrong, and what to do where that is known.
    pub meaning: &'static str,
}

/// What is known of a code.
#[must_use]
pub fn code(code: i32) -> Option<&'static Code> {
    CODES.binary_search_by_key(&code, |c| c.code).ok().map(|at| &CODES[at])
}

macro_rules! codes {
    ($($code:literal $name:ident $meaning:literal)*) => {
        /// The codes, in order. 1xxxxx: wrong use; 2xxxxx: not enough of something; 5xxxxx: the device or its software failed.
        pub const CODES: &[Code] =
            &[$(Code { code: $code, name: stringify!($name), meaning: $meaning }),*];
    };
}

codes! {
    100000 ACL_ERROR_INVALID_PARAM "a parameter is invalid"
    100001 ACL_ERROR_UNINITIALIZE "AscendCL is not initialized"
    100002 ACL_ERROR_REPEAT_INITIALIZE "AscendCL is initialized already"
    100003 ACL_ERROR_INVALID_FILE "the file is not there or not valid"
    100004 ACL_ERROR_WRITE_FILE "a file cannot be written"
    100005 ACL_ERROR_INVALID_FILE_SIZE "the size of the file is not valid"
    100006 ACL_ERROR_PARSE_FILE "the file cannot be parsed"
    100007 ACL_ERROR_FILE_MISSING_ATTR "the file lacks an attribute"
    100008 ACL_ERROR_FILE_ATTR_INVALID "an attribute in the file is not valid"
    100009 ACL_ERROR_INVALID_DUMP_CONFIG "the configuration of dumps is not valid"
    100010 ACL_ERROR_INVALID_PROFILING_CONFIG "the configuration of profiling is not valid"
    100011 ACL_ERROR_INVALID_MODEL_ID "there is no such model, or it is unloaded"
    100012 ACL_ERROR_DESERIALIZE_MODEL "the model cannot be read: it was made by a later CANN than the one installed, or is damaged"
    100013 ACL_ERROR_PARSE_MODEL "the model cannot be parsed: it was made by a later CANN than the one installed, or is damaged"
    100014 ACL_ERROR_READ_MODEL_FAILURE "the model's file cannot be read"
    100015 ACL_ERROR_MODEL_SIZE_INVALID "the size of the model is not valid: its file is truncated"
    100016 ACL_ERROR_MODEL_MISSING_ATTR "the model lacks an attribute"
    100017 ACL_ERROR_MODEL_INPUT_NOT_MATCH "the inputs are not those of the model"
    100018 ACL_ERROR_MODEL_OUTPUT_NOT_MATCH "the outputs are not those of the model"
    100019 ACL_ERROR_MODEL_NOT_DYNAMIC "the model has one shape only"
    100024 ACL_ERROR_OP_NOT_FOUND "an operator is not installed"
    100025 ACL_ERROR_OP_LOAD_FAILED "an operator cannot be loaded"
    100026 ACL_ERROR_UNSUPPORTED_DATA_TYPE "a type of elements is not supported"
    100027 ACL_ERROR_FORMAT_NOT_MATCH "the layout is another one"
    100037 ACL_ERROR_REPEAT_FINALIZE "AscendCL is finalized already"
    100038 ACL_ERROR_NOT_STATIC_AIPP "the model has no fixed image preprocessing"
    100039 ACL_ERROR_COMPILING_STUB_MODE "the library is a stub for compiling: take the folder devlib off LD_LIBRARY_PATH, and install the driver"
    107000 ACL_ERROR_RT_PARAM_INVALID "a parameter is invalid"
    107001 ACL_ERROR_RT_INVALID_DEVICEID "there is no such device"
    107002 ACL_ERROR_RT_CONTEXT_NULL "this thread has no context"
    107003 ACL_ERROR_RT_STREAM_CONTEXT "the stream belongs to another context"
    107004 ACL_ERROR_RT_MODEL_CONTEXT "the model belongs to another context"
    107005 ACL_ERROR_RT_STREAM_MODEL "the stream belongs to another model"
    107006 ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID "the event has no time: it does not note times, or was not reached yet"
    107008 ACL_ERROR_RT_ADDR_UNALIGNED "an address is not aligned"
    107017 ACL_ERROR_RT_INVALID_HANDLE "there is no such object, or it is destroyed"
    107019 ACL_ERROR_RT_WAIT_TIMEOUT "waiting took too long"
    107020 ACL_ERROR_RT_TASK_TIMEOUT "a task took too long"
    107022 ACL_ERROR_RT_DEVICE_TASK_ABORT "the device gives up its tasks"
    107023 ACL_ERROR_RT_STREAM_ABORT "the stream gives up its tasks"
    145000 ACL_ERROR_GE_PARAM_INVALID "a parameter is invalid"
    145001 ACL_ERROR_GE_EXEC_NOT_INIT "the executor is not initialized"
    145002 ACL_ERROR_GE_EXEC_MODEL_PATH_INVALID "the model's path is not valid"
    145003 ACL_ERROR_GE_EXEC_MODEL_ID_INVALID "there is no such model"
    145006 ACL_ERROR_GE_EXEC_MODEL_DATA_SIZE_INVALID "the size of the model is not what its header says: its file is truncated or damaged"
    145007 ACL_ERROR_GE_EXEC_MODEL_ADDR_INVALID "the model's address is not valid"
    145009 ACL_ERROR_GE_EXEC_LOAD_MODEL_REPEATED "the model is loaded already"
    145011 ACL_ERROR_GE_DYNAMIC_INPUT_ADDR_INVALID "the input of the gears has no buffer"
    145012 ACL_ERROR_GE_DYNAMIC_INPUT_LENGTH_INVALID "the input of the gears has a buffer of another size"
    145013 ACL_ERROR_GE_DYNAMIC_BATCH_SIZE_INVALID "the batch size is none of the model's gears"
    145020 ACL_ERROR_GE_FORMAT_INVALID "the layout is not valid"
    145021 ACL_ERROR_GE_SHAPE_INVALID "the shape is not valid"
    145022 ACL_ERROR_GE_DATATYPE_INVALID "the type of elements is not valid"
    148049 ACL_ERROR_INVALID_OPP_PATH "ASCEND_OPP_PATH is not set, or not the folder of operators of this release"
    148050 ACL_ERROR_OP_UNSUPPORTED_DYNAMIC "an operator takes no open shapes"
    200000 ACL_ERROR_BAD_ALLOC "no memory could be had"
    200001 ACL_ERROR_API_NOT_SUPPORT "this device does not support the call"
    200002 ACL_ERROR_INVALID_DEVICE "there is no such device"
    200003 ACL_ERROR_MEMORY_ADDRESS_UNALIGNED "an address is not aligned"
    200006 ACL_ERROR_FEATURE_UNSUPPORTED "this release or device lacks the feature"
    207000 ACL_ERROR_RT_FEATURE_NOT_SUPPORT "this device lacks the feature"
    207001 ACL_ERROR_RT_MEMORY_ALLOCATION "the device's memory does not suffice: take a smaller batch, or stop what else runs there (`npu-smi info`)"
    207002 ACL_ERROR_RT_MEMORY_FREE "memory cannot be freed"
    207003 ACL_ERROR_RT_AICORE_OVER_FLOW "an AI Core met an overflow"
    207004 ACL_ERROR_RT_NO_DEVICE "there is no device: is the driver installed, and may this user open /dev/davinci*?"
    207005 ACL_ERROR_RT_RESOURCE_ALLOC_FAIL "the device has no more of something"
    207006 ACL_ERROR_RT_NO_PERMISSION "this user may not: it has to be in the group of the driver (HwHiAiUser)"
    207007 ACL_ERROR_RT_NO_EVENT_RESOURCE "the device has no more events"
    207008 ACL_ERROR_RT_NO_STREAM_RESOURCE "the device has no more streams"
    207010 ACL_ERROR_RT_NO_MODEL_RESOURCE "the device cannot hold more models"
    207018 ACL_ERROR_RT_DEVICE_OOM "the device's memory does not suffice: take a smaller batch, or stop what else runs there (`npu-smi info`)"
    245000 ACL_ERROR_GE_MEMORY_ALLOCATION "memory for the model cannot be had: take a smaller batch, or stop what else runs on the device (`npu-smi info`)"
    245001 ACL_ERROR_GE_MEMORY_OPERATE_FAILED "memory could not be used"
    245002 ACL_ERROR_GE_DEVICE_MEMORY_OPERATE_FAILED "memory of the device could not be used"
    300000 ACL_ERROR_STORAGE_OVER_LIMIT "there is no more room"
    345104 ACL_ERROR_GE_DATA_NOT_ALIGNED "data are not aligned"
    500000 ACL_ERROR_INTERNAL_ERROR "AscendCL failed"
    500001 ACL_ERROR_FAILURE "AscendCL failed"
    500002 ACL_ERROR_GE_FAILURE "the graph engine failed"
    500003 ACL_ERROR_RT_FAILURE "the runtime failed"
    500004 ACL_ERROR_DRV_FAILURE "the driver failed"
    500005 ACL_ERROR_PROFILING_FAILURE "profiling failed"
    507000 ACL_ERROR_RT_INTERNAL_ERROR "the runtime failed"
    507001 ACL_ERROR_RT_TS_ERROR "the task scheduler of the device failed"
    507002 ACL_ERROR_RT_STREAM_TASK_FULL "the stream holds as many tasks as it can"
    507004 ACL_ERROR_RT_STREAM_NOT_COMPLETE "the stream is not done"
    507006 ACL_ERROR_RT_EVENT_NOT_COMPLETE "the event was not reached"
    507007 ACL_ERROR_RT_CONTEXT_RELEASE_ERROR "the context cannot be released"
    507008 ACL_ERROR_RT_SOC_VERSION "the model was compiled for another chip: compile it with this one's name as --soc"
    507009 ACL_ERROR_RT_TASK_TYPE_NOT_SUPPORT "the device does not know a task of the model"
    507010 ACL_ERROR_RT_LOST_HEARTBEAT "the device does not answer: look at `npu-smi info`, and reset the card or the machine"
    507011 ACL_ERROR_RT_MODEL_EXECUTE "the model failed on the device; the plog in ~/ascend/log/debug has details"
    507013 ACL_ERROR_RT_SYS_DMA "copying on the device failed"
    507014 ACL_ERROR_RT_AICORE_TIMEOUT "an AI Core took too long"
    507015 ACL_ERROR_RT_AICORE_EXCEPTION "an operator failed on an AI Core; the plog in ~/ascend/log/debug names it"
    507016 ACL_ERROR_RT_AICORE_TRAP_EXCEPTION "an operator stopped on an AI Core"
    507017 ACL_ERROR_RT_AICPU_TIMEOUT "an operator on the AI CPUs took too long"
    507018 ACL_ERROR_RT_AICPU_EXCEPTION "an operator failed on the AI CPUs; the plog in ~/ascend/log/debug names it"
    507033 ACL_ERROR_RT_DEV_SETUP_ERROR "the device cannot be opened: in a container, /dev/davinciN, davinci_manager, devmm_svm, hisi_hdc and the driver's folder must be mounted"
    507034 ACL_ERROR_RT_VECTOR_CORE_TIMEOUT "a vector core took too long"
    507035 ACL_ERROR_RT_VECTOR_CORE_EXCEPTION "an operator failed on a vector core"
    507046 ACL_ERROR_RT_STREAM_SYNC_TIMEOUT "the stream took too long"
    507047 ACL_ERROR_RT_EVENT_SYNC_TIMEOUT "the event took too long"
    507051 ACL_ERROR_RT_SEND_MSG "the device cannot be reached"
    507052 ACL_ERROR_RT_COPY_DATA "copying failed"
    507053 ACL_ERROR_RT_DEVICE_MEM_ERROR "the device's memory is faulty"
    507899 ACL_ERROR_RT_DRV_INTERNAL_ERROR "the driver failed"
    507900 ACL_ERROR_RT_AICPU_INTERNAL_ERROR "the AI CPUs failed"
    507901 ACL_ERROR_RT_SOCKET_CLOSE "the connection to the device is lost"
    545000 ACL_ERROR_GE_INTERNAL_ERROR "the graph engine failed"
    545001 ACL_ERROR_GE_LOAD_MODEL "the model cannot be loaded"
    545002 ACL_ERROR_GE_EXEC_LOAD_MODEL_PARTITION_FAILED "the model's definition cannot be loaded: the file is damaged"
    545003 ACL_ERROR_GE_EXEC_LOAD_WEIGHT_PARTITION_FAILED "the model's weights cannot be loaded: the file is damaged"
    545004 ACL_ERROR_GE_EXEC_LOAD_TASK_PARTITION_FAILED "the model's tasks cannot be loaded: the file is damaged"
    545005 ACL_ERROR_GE_EXEC_LOAD_KERNEL_PARTITION_FAILED "the model's kernels cannot be loaded: the file is damaged"
    545601 ACL_ERROR_GE_MODEL_EXECUTE_TIMEOUT "the model took too long"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_because_they_are_in_order() {
        assert!(CODES.is_sorted_by(|a, b| a.code < b.code));
        assert_eq!(code(507_008).map(|c| c.name), Some("ACL_ERROR_RT_SOC_VERSION"));
        assert_eq!(code(1), None);
    }
}
