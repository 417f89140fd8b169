// Everything in one translation unit, since a fatbin holds one.

#include "append.cu"
#include "attend.cu"
#include "compact.cu"
#include "convert.cu"
#include "head.cu"
#include "merge.cu"
#include "plan.cu"
#include "score.cu"
#include "transfer.cu"
