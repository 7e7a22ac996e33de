/* Runs a model once through AscendCL: what any C program does. minimal MODEL: y = 2x, x int32[4,8], y float[4,8]. */
#include "ascendcl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(const char *what, aclError code) {
    if (code != ACL_SUCCESS) {
        const char *message = aclGetRecentErrMsg();
        fprintf(stderr, "%s: %d %s\n", what, code, message ? message : "");
        exit(1);
    }
}

static void expect(const char *what, long long have, long long want) {
    if (have != want) {
        fprintf(stderr, "%s: %lld instead of %lld\n", what, have, want);
        exit(1);
    }
}

/* Memory of the device with its description, in a data set. */
static void *add(aclmdlDataset *set, size_t size) {
    void *memory = NULL;
    check("aclrtMalloc", aclrtMalloc(&memory, size, ACL_MEM_MALLOC_HUGE_FIRST));
    check("aclmdlAddDatasetBuffer", aclmdlAddDatasetBuffer(set, aclCreateDataBuffer(memory, size)));
    return memory;
}

static void drop(aclmdlDataset *set) {
    for (size_t i = 0; i < aclmdlGetDatasetNumBuffers(set); ++i) {
        aclDataBuffer *buffer = aclmdlGetDatasetBuffer(set, i);
        check("aclrtFree", aclrtFree(aclGetDataBufferAddr(buffer)));
        check("aclDestroyDataBuffer", aclDestroyDataBuffer(buffer));
    }
    check("aclmdlDestroyDataset", aclmdlDestroyDataset(set));
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    expect("sizeof aclmdlIODims", sizeof(aclmdlIODims), 1160);
    check("aclInit", aclInit(NULL));
    check("aclrtSetDevice", aclrtSetDevice(0));
    aclrtContext context;
    check("aclrtCreateContext", aclrtCreateContext(&context, 0));
    uint32_t model;
    check("aclmdlLoadFromFile", aclmdlLoadFromFile(arguments[1], &model));
    aclmdlDesc *desc = aclmdlCreateDesc();
    check("aclmdlGetDesc", aclmdlGetDesc(desc, model));

    expect("inputs", aclmdlGetNumInputs(desc), 1);
    expect("outputs", aclmdlGetNumOutputs(desc), 2);
    expect("type of x", aclmdlGetInputDataType(desc, 0), ACL_INT32);
    expect("type of y", aclmdlGetOutputDataType(desc, 0), ACL_FLOAT);
    aclmdlIODims dims;
    memset(&dims, 0xff, sizeof dims);
    check("aclmdlGetInputDims", aclmdlGetInputDims(desc, 0, &dims));
    expect("rank of x", dims.dimCount, 2);
    expect("axis 0 of x", dims.dims[0], 4);
    expect("axis 1 of x", dims.dims[1], 8);
    expect("name of x", strcmp(dims.name, "x"), 0);
    expect("name of y", strcmp(aclmdlGetOutputNameByIndex(desc, 0), "y"), 0);

    aclmdlDataset *inputs = aclmdlCreateDataset(), *outputs = aclmdlCreateDataset();
    size_t bytes = aclmdlGetInputSizeByIndex(desc, 0);
    expect("bytes of x", bytes, 128);
    void *x = add(inputs, bytes);
    void *y = add(outputs, aclmdlGetOutputSizeByIndex(desc, 0));
    add(outputs, aclmdlGetOutputSizeByIndex(desc, 1));

    int32_t in[32];
    float out[32];
    for (int i = 0; i < 32; ++i) in[i] = i - 16;
    check("aclrtMemcpy", aclrtMemcpy(x, bytes, in, sizeof in, ACL_MEMCPY_HOST_TO_DEVICE));
    check("aclmdlExecute", aclmdlExecute(model, inputs, outputs));
    check("aclrtMemcpy", aclrtMemcpy(out, sizeof out, y, sizeof out, ACL_MEMCPY_DEVICE_TO_HOST));
    for (int i = 0; i < 32; ++i) expect("y", (long long)out[i], 2 * (i - 16));

    drop(inputs);
    drop(outputs);
    check("aclmdlUnload", aclmdlUnload(model));
    check("aclmdlDestroyDesc", aclmdlDestroyDesc(desc));
    check("aclrtDestroyContext", aclrtDestroyContext(context));
    check("aclrtResetDevice", aclrtResetDevice(0));
    check("aclFinalize", aclFinalize());
    return 0;
}
