// Every word of the page in both languages, and the one that is in force.

const STRINGS = {
  en: {
    skip: "Skip to the question", chat: "Chat", planner: "Planner", views: "Views", settings: "Settings", close: "Close",
    conversations: "Conversations", newConversation: "New conversation", untitled: "New conversation", rename: "Rename “{0}”",
    renameTo: "New name of the conversation", remove: "Delete “{0}”", removeSure: "Delete “{0}”? This cannot be undone.",
    exportAll: "Export", import: "Import", imported: "{0} conversations imported.",
    importFailed: "This file holds no conversations of this page: {0}", messages: "Messages",
    yourQuestion: "Your question", send: "Send", stop: "Stop", hint: "Enter sends, Shift+Enter starts a line, Esc stops, Alt+N begins anew.",
    you: "You", assistant: "Model", copy: "Copy", copied: "Copied", copyFailed: "The browser does not let this page copy.",
    copyCode: "Copy code", edit: "Edit", save: "Send", cancel: "Cancel", editText: "Edit your question", regenerate: "Regenerate", retry: "Try again",
    showAll: "Show all", showLess: "Show less", stopped: "stopped", cutOff: "cut off at the token limit", answered: "The answer is complete.", asking: "The model answers.",
    emptyTitle: "Ask something", emptyText: "The conversation stays in this browser. The layer map shows where the model computes.",
    image: "image: {0}", firstToken: "first token", tokensPerSecond: "tok/s", tokens: "{0} tokens", measured: "measured", estimated: "estimated", calibrated: "calibrated", given: "given",
    measuredHere: "measured by the browser", measuredThere: "measured by the server",
    layerMap: "Layer map", blocks: "blocks {0}", noBlocks: "no blocks", lmHead: "lm_head", asked: "asked for {0}",
    mapOf: "{0} blocks: {1}", planned: "planned", actual: "actual", lastToken: "Last token", hops: "hops", all: "all",
    noToken: "No token yet.", slots: "Slots", busyOf: "{0} of {1} busy", queue: "queue {0} of {1}", status: "Status", ready: "ready", loading: "loading {0} of {1} parts", failed: "failed: {0}",
    degraded: "Not as planned: {0}", unreachable: "The server does not answer. Conversations remain readable.", context: "Context", contextTokens: "{0} tokens",
    model: "Model", temperature: "Temperature", topP: "Top-p", topK: "Top-k", minP: "Min-p", maxTokens: "Most tokens of an answer", seed: "Seed",
    presence: "Presence penalty", frequency: "Frequency penalty", stopTexts: "Stop texts, one a line", system: "System message", apiKey: "API key",
    keyNeeded: "This server wants a key: enter it in the settings.", serverDefault: "empty: the server’s default", zeroGreedy: "empty: the server’s default; 0: the likeliest token",
    randomSeed: "empty: random", keyKept: "kept in this browser", theme: "Colours: {0}", auto: "as the system", light: "light", dark: "dark", done: "Done", reset: "Reset",
    noStorage: "This browser keeps nothing: conversations end with this page.", gpu: "GPU", anyGpu: "GPU without a name", vram: "Free VRAM", slotsWanted: "Slots", gpuPrecision: "GPU precision", cpuPrecision: "CPU precision", policy: "Policy",
    policyReserve: "reserve: the published rule", policyFit: "fit: the fastest that fits", byDefault: "default", plannerIntro: "Move a slider: the planner answers at once. Nothing on this server changes.",
    report: "Capacity report of this machine", decode: "decode", prefill: "prefill", step: "A token", over: "{0} too much", fitsWith: "{0} left", verdictFits: "Fits.", verdictOver: "Does not fit: {0} needs {1} more.",
    needed: "needed", free: "free", weights: "weights", kvCache: "KV cache", workspace: "workspace", runtime: "runtime", ram: "RAM, all processes", command: "Run it", notes: "Notes and warnings", rule: "Rule",
    onGpu: "{0} of {1} blocks on the GPU", firstTokenOf: "first token after {0} tokens",
  },
  zh: {
    skip: "跳到提问框", chat: "对话", planner: "规划", views: "视图", settings: "设置", close: "关闭",
    conversations: "对话列表", newConversation: "新对话", untitled: "新对话", rename: "重命名“{0}”",
    renameTo: "对话的新名称", remove: "删除“{0}”", removeSure: "删除“{0}”？此操作无法撤销。",
    exportAll: "导出", import: "导入", imported: "已导入 {0} 个对话。",
    importFailed: "此文件不含本页面的对话：{0}", messages: "消息",
    yourQuestion: "输入问题", send: "发送", stop: "停止", hint: "Enter 发送，Shift+Enter 换行，Esc 停止，Alt+N 新对话。",
    you: "你", assistant: "模型", copy: "复制", copied: "已复制", copyFailed: "浏览器不允许本页面复制。",
    copyCode: "复制代码", edit: "编辑", save: "发送", cancel: "取消", editText: "编辑问题", regenerate: "重新生成", retry: "重试",
    showAll: "展开全部", showLess: "收起", stopped: "已停止", cutOff: "达到词元上限而截断", answered: "回答完毕。", asking: "模型正在回答。",
    emptyTitle: "请提问", emptyText: "对话只保存在此浏览器中。层图显示模型在哪里计算。",
    image: "图片：{0}", firstToken: "首词元", tokensPerSecond: "词元/秒", tokens: "{0} 个词元", measured: "实测", estimated: "估算", calibrated: "标定", given: "给定",
    measuredHere: "浏览器实测", measuredThere: "服务器实测",
    layerMap: "层图", blocks: "层 {0}", noBlocks: "无层", lmHead: "lm_head", asked: "要求 {0}",
    mapOf: "{0} 层：{1}", planned: "计划", actual: "实际", lastToken: "上一个词元", hops: "传输", all: "合计",
    noToken: "还没有词元。", slots: "槽位", busyOf: "{1} 个中 {0} 个在用", queue: "排队 {0}，上限 {1}", status: "状态", ready: "就绪", loading: "已加载 {0}/{1} 个部分", failed: "失败：{0}",
    degraded: "与计划不符：{0}", unreachable: "服务器没有响应。已有对话仍可阅读。", context: "上下文", contextTokens: "{0} 个词元",
    model: "模型", temperature: "温度", topP: "Top-p", topK: "Top-k", minP: "Min-p", maxTokens: "回答的最多词元数", seed: "随机种子",
    presence: "存在惩罚", frequency: "频率惩罚", stopTexts: "停止文本，每行一个", system: "系统消息", apiKey: "API 密钥",
    keyNeeded: "此服务器需要密钥：请在设置中输入。", serverDefault: "留空：服务器默认值", zeroGreedy: "留空：服务器默认值；0：最可能的词元",
    randomSeed: "留空：随机", keyKept: "保存在此浏览器中", theme: "配色：{0}", auto: "跟随系统", light: "浅色", dark: "深色", done: "完成", reset: "重置",
    noStorage: "此浏览器不保存数据：关闭页面后对话即消失。", gpu: "显卡", anyGpu: "未指定型号", vram: "空闲显存", slotsWanted: "槽位", gpuPrecision: "GPU 精度", cpuPrecision: "CPU 精度", policy: "策略",
    policyReserve: "reserve：文章公布的规则", policyFit: "fit：放得下且最快", byDefault: "默认", plannerIntro: "拖动滑块，规划器立即回答。此服务器上的一切不变。",
    report: "本机容量报告", decode: "解码", prefill: "预填充", step: "每个词元", over: "超出 {0}", fitsWith: "剩余 {0}", verdictFits: "放得下。", verdictOver: "放不下：{0} 还差 {1}。",
    needed: "需要", free: "空闲", weights: "权重", kvCache: "KV 缓存", workspace: "工作区", runtime: "运行时", ram: "内存，全部进程", command: "运行命令", notes: "说明与警告", rule: "规则",
    onGpu: "{1} 层中 {0} 层在 GPU 上", firstTokenOf: "{0} 个词元后的首词元",
  },
};

let language = "en";

export function useLanguage(name) {
  language = name in STRINGS ? name : "en";
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const one of document.querySelectorAll("[data-text]")) one.textContent = t(one.dataset.text);
  for (const one of document.querySelectorAll("[data-label]")) one.setAttribute("aria-label", t(one.dataset.label));
  for (const one of document.querySelectorAll("[data-placeholder]")) one.placeholder = t(one.dataset.placeholder);
}

export const currentLanguage = () => language;

/** The text of a key, with {0}, {1} … replaced. */
export function t(key, ...values) {
  const text = STRINGS[language][key] ?? STRINGS.en[key] ?? key;
  return text.replace(/\{(\d)\}/g, (_, index) => values[index]);
}
