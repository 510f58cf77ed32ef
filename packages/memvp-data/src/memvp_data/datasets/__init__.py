"""Official files of each benchmark in, samples out: one file per benchmark.

table: each dataset with its reader, splits and published counts
check: what a folder holds against what it should hold
records: what every reader asks of a record
json_files, csv_files: big files, record by record
vqav2, gqa, coco, scienceqa, sqa_i, mmbench, mme, pope: a benchmark each
video: TVQA and How2QA
llava: LLaVA's training sets and questions
llava_writer: samples out as LLaVA's files
vl_t5: VQAv2 and GQA in the files of LXMERT and VL-T5
karpathy: Karpathy's split of COCO
frames: frames of clips as features
chats, questions: conversations and questions of your own
kinds: what kind of file somebody brings
"""
