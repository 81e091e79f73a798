"""Chat templates of models that were published with their format in code instead of a template."""

from __future__ import annotations

# ChatGLM2: numbered rounds, from `build_prompt` of its tokenization code. It has no system role, so
# a system text goes before the first question.
CHATGLM2 = """\
{%- set state = namespace(round=1, system='') -%}
[gMASK]sop
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set state.system = message['content'] + '\n' -%}
{%- elif message['role'] == 'user' -%}
{{- '[Round ' ~ state.round ~ ']' }}

问：{{ state.system + message['content'] }}

答：
{%- set state.system = '' -%}
{%- set state.round = state.round + 1 -%}
{%- elif message['role'] == 'assistant' -%}
{{- message['content'] + '\n\n' -}}
{%- else -%}
{{- raise_exception('this model knows the roles system, user and assistant only') -}}
{%- endif -%}
{%- endfor -%}"""

# ChatGLM3: a role token, the role's metadata (none), a line end, the text; every part begins with
# SentencePiece's blank, which the blank before the text stands for. From `build_chat_input`.
CHATGLM3 = """\
[gMASK]sop
{%- for message in messages -%}
<|{{ 'observation' if message['role'] == 'tool' else message['role'] }}|>{{ '\n ' -}}
{{- message['content'] -}}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"""

# GLM-4: the same roles without SentencePiece's blank. From `build_single_message`.
GLM4 = """\
[gMASK]<sop>
{%- for message in messages -%}
<|{{ 'observation' if message['role'] == 'tool' else message['role'] }}|>{{ '\n' -}}
{{- message['content'] -}}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"""
