{{- define "tracer.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "tracer.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tracer.metadata" -}}
name: {{ include "tracer.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "tracer.labels" . | nindent 2 }}
{{- end }}

{{- define "tracer.labels" -}}
{{ include "tracer.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "tracer.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (ternary (include "tracer.name" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- /* Not empty where the API server is asked for something. */ -}}
{{- define "tracer.asksCluster" -}}
{{- if or .Values.kube.enabled .Values.kube.remotes -}}
true
{{- end -}}
{{- end }}

{{- define "tracer.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Of both containers: what the doctor finds is what the daemon has. */ -}}
{{- define "tracer.securityContext" -}}
readOnlyRootFilesystem: true
{{- if .Values.privileged }}
privileged: true
{{- else }}
allowPrivilegeEscalation: false
# a runtime's default profile refuses bpf(2), perf_event_open(2), or looking at other containers'
# processes, whatever capabilities there are
seccompProfile:
  type: Unconfined
appArmorProfile:
  type: Unconfined
capabilities:
  drop: [ALL]
  # what each is for: docs/security.md
  add: [BPF, PERFMON, SYS_PTRACE, DAC_READ_SEARCH, CHECKPOINT_RESTORE, SYS_RESOURCE]
{{- end }}
{{- end }}

{{- define "tracer.nodeMounts" -}}
- name: btf
  mountPath: /sys/kernel/btf
  readOnly: true
- name: cgroup
  mountPath: /sys/fs/cgroup
  readOnly: true
- name: tracing
  mountPath: /sys/kernel/tracing
  readOnly: true
{{- end }}
